"""A page for whoever has to look over a de-identified video: the faces that the guard was not sure of.

It shows the *covered* output and times, nothing of the original.
"""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from runtime.faces.guard import TrackSummary
from runtime.faces.types import Cover
from runtime.frames import Frame
from runtime.report import write_text
from runtime.video.source import VideoFrame

SIDE = 160  # pixels of a thumbnail's longer side
EACH = 4  # thumbnails of a track
TRACKS = 400  # that thumbnails are kept of; a page with more is of no use


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG of the covered picture around a track, its time in seconds and its frame."""

    seconds: float
    index: int
    kind: str
    jpeg: bytes


class Gallery:
    """Keeps thumbnails of every track while a video is covered; an observer of ``DeidentifiedSource``."""

    def __init__(self) -> None:
        self._of: dict[int, list[Thumbnail]] = {}
        self._next: dict[int, int] = {}

    def __call__(self, frame: VideoFrame, covers: list[Cover]) -> None:
        for cover in covers:
            kept = self._of.get(cover.track)
            if kept is None:
                if len(self._of) >= TRACKS:
                    continue
                kept = self._of.setdefault(cover.track, [])
            # the first, then ever more rarely; of the later ones the last is kept
            if frame.index < self._next.get(cover.track, 0) and cover.kind == "detected":
                continue
            self._next[cover.track] = frame.index + 8 * (len(kept) + 1)
            picture = _cut(frame.image, cover)
            if picture is None:
                continue
            if len(kept) == EACH:
                kept.pop()
            kept.append(Thumbnail(float(frame.pts), frame.index, cover.kind, picture))

    def thumbnails(self, track: int) -> list[Thumbnail]:
        return self._of.get(track, [])


def _cut(image: Frame, cover: Cover) -> bytes | None:
    height, width = image.shape[:2]
    box = cover.region.scaled(1.4)
    left, top = max(0, int(box.x)), max(0, int(box.y))
    right, bottom = min(width, int(box.x + box.width)), min(height, int(box.y + box.height))
    if right - left < 2 or bottom - top < 2:
        return None
    piece: Any = image[top:bottom, left:right]
    factor = SIDE / max(piece.shape[:2])
    size = max(1, round(piece.shape[1] * factor)), max(1, round(piece.shape[0] * factor))
    piece = cv2.resize(piece, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    good, data = cv2.imencode(".jpg", np.asarray(piece), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return data.tobytes() if good else None


def write_review(path: Path, title: str, tracks: list[TrackSummary], gallery: Gallery, facts: dict[str, Any]) -> None:
    """Write the page, whole or not at all.

    Args:
        path: of the HTML file; it needs no other.
        title: name of the output.
        tracks: all of the guard's; the uncertain ones are shown, in order of time.
        facts: figures for the head of the page, such as ``{"frames": 275}``.
    """
    uncertain = [track for track in tracks if track.uncertain]
    rows = "\n".join(_row(track, gallery.thumbnails(track.track)) for track in uncertain)
    head = " · ".join(f"{html.escape(str(value))} {html.escape(name)}" for name, value in facts.items())
    nothing = "" if uncertain else "<p>Nothing to look at: every track was sure.</p>"
    counts = {"count": len(uncertain), "of": len(tracks), "unseen": sum(not track.seen for track in uncertain)}
    write_text(path, _PAGE.format(title=html.escape(title), head=head, rows=rows + nothing, **counts))


def _row(track: TrackSummary, thumbnails: list[Thumbnail]) -> str:
    pictures = "".join(
        f'<figure><img alt="" src="data:image/jpeg;base64,{base64.b64encode(each.jpeg).decode()}">'
        f"<figcaption>{_clock(each.seconds)}<br>frame {each.index}, {each.kind}</figcaption></figure>"
        for each in thumbnails
    )
    covered = f"held {track.held}, filled {track.filled}, interpolated {track.interpolated}"
    if track.seen:
        words = f"seen in {track.seen}, {covered}; best score {track.best_score:.2f}"
    else:
        words = f"<strong>never seen in any of them</strong>, covered because a face may be there: {covered}"
    return (
        f"<section><h2>Track {track.track}</h2><p>frames {track.first} to {track.last}: {words}"
        f"</p><div>{pictures}</div></section>"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours:d}:{minutes:02d}:{rest:06.3f}"


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Review of {title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222 }}
h1 {{ font-size: 1.4rem }} h2 {{ font-size: 1.05rem; margin: 0 }}
section {{ border-top: 1px solid #ddd; padding: .8rem 0 }} section p {{ margin: .2rem 0 .6rem; color: #555 }}
div {{ display: flex; flex-wrap: wrap; gap: .8rem }} figure {{ margin: 0 }} img {{ border-radius: 4px; display: block }}
figcaption {{ font-size: .8rem; color: #555 }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #161616; color: #ddd }} section {{ border-color: #333 }}
  section p, figcaption {{ color: #999 }}
}}
</style>
<h1>Review of {title}</h1>
<p>{head}</p>
<p>{count} of {of} tracks were not certain: seen in one or two frames or at a low score only, or, {unseen} of them, in
no frame. The pictures show the covered output. Play the video at these times before you give it away.</p>
{rows}
</html>
"""
