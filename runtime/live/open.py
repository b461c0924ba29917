"""Open any INPUT: files give every frame, live sources the newest."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.live.newest import NewestSource
from runtime.live.paced import PacedSource
from runtime.video.source import Source, SourceOptions, open_source


@dataclass(frozen=True)
class LiveOptions:
    """What live sources are asked for.

    ``realtime``: play a file at its own rate, as a live source. ``max_latency``: seconds, see
    :class:`runtime.live.newest.NewestSource`.
    """

    realtime: bool = False
    max_latency: float | None = None


def open_input(text: str, options: SourceOptions, live: LiveOptions) -> Source:
    """Open INPUT ``text`` as :func:`runtime.video.source.open_source` does, with the policy that fits its kind."""
    source = open_source(text, options=options)
    if source.info.live:
        return NewestSource(source, max_latency=live.max_latency)
    if live.realtime:
        return NewestSource(PacedSource(source), max_latency=live.max_latency, at_once=False)
    return source
