"""Open any INPUT: files give every frame, live sources the newest."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

from runtime.live.newest import NewestSource
from runtime.live.paced import PacedSource
from runtime.live.reconnect import ReconnectingSource
from runtime.video.source import SILENCE, Source, SourceOptions, open_source

GLANCE = ("analyzeduration", "100000")  # microseconds: the stream is known, so that pictures are soon back
QUICK = 3.0  # seconds in which a stream that was open once has to answer again, if it did not take longer then


@dataclass(frozen=True)
class LiveOptions:
    """What live sources are asked for.

    ``realtime``: play a file at its own rate, as a live source. ``max_latency``: seconds, see
    :class:`runtime.live.newest.NewestSource`. ``reconnect``: seconds for which a source that is lost is opened again
    and again; 0 for never. ``say``: gets a line when it is lost, and when it is back.
    """

    realtime: bool = False
    max_latency: float | None = None
    reconnect: float = 60.0
    say: Callable[[str], None] = lambda line: None


def open_input(text: str, options: SourceOptions, live: LiveOptions) -> Source:
    """Open INPUT ``text`` as :func:`runtime.video.source.open_source` does, with the policy that fits its kind."""
    begin = time.monotonic()
    source = open_source(text, options=dataclasses.replace(options, ahead=not live.realtime))
    if source.info.live:
        if live.reconnect:
            timeout = min(options.timeout, max(QUICK, 2 * (time.monotonic() - begin)))
            again = dataclasses.replace(
                options, timeout=timeout, silence=options.silence or SILENCE, ffmpeg=(GLANCE, *options.ffmpeg)
            )
            source = ReconnectingSource(source, lambda: open_source(text, options=again), live.reconnect, live.say)
        return NewestSource(source, max_latency=live.max_latency)
    if live.realtime:
        return NewestSource(PacedSource(source), max_latency=live.max_latency, at_once=False)
    return source
