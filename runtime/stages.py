"""Open a bundle as one stage of the pipeline."""

from __future__ import annotations

from runtime.bundle import Bundle
from runtime.engines.settings import DEFAULT_ENGINES, EngineOptions
from runtime.sessions import Choice, Session, open_session
from runtime.tiles import fit_session

#: Frames that OpenVINO computes at once where nobody waits for them: two streams give more frames a second than one on
#: all cores, since a core does not wait for the others after each layer. Each frame takes twice as long for that.
FILE_STREAMS = 2


def open_stage(
    bundle: Bundle,
    choice: Choice,
    height: int,
    width: int,
    *,
    tile: int | None = None,
    threads: int = 0,
    live: bool = False,
    image: str | None = None,
    engines: EngineOptions = DEFAULT_ENGINES,
) -> Session:
    """A session for frames of ``height x width`` pixels; the caller closes it.

    Args:
        bundle, choice: what to run, and on which engine.
        height, width: of the frames to come, in pixels.
        tile: see :func:`runtime.tiles.fit_session`.
        threads: of the engine, 0 lets it choose.
        live: somebody waits for each frame: the shortest time a frame instead of the most frames a second.
        image: which of the generator's images, by default the main one.
        engines: of TensorRT, see :func:`runtime.sessions.open_session`.
    """
    streams = 1 if live or bundle.manifest.states else FILE_STREAMS  # a state makes each frame wait for the last one
    session = open_session(
        bundle, choice, threads=threads, streams=streams, in_flight=streams + 1, image=image, engines=engines
    )
    return fit_session(session, bundle.manifest.geometry, height, width, tile)
