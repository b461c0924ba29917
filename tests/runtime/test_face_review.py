"""The review page says in words what the guard knows about a track."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import numpy as np

from runtime.faces.guard import Guard, GuardSettings, TrackSummary
from runtime.faces.review import Gallery, write_review
from runtime.faces.types import Box, Face
from runtime.video.source import VideoFrame


def text_of(path: Path, tracks: list[TrackSummary], gallery: Gallery | None = None) -> str:
    write_review(path / "r.html", "d.mp4", tracks, gallery or Gallery(), {"frames": 30})
    return re.sub(r"\s+", " ", (path / "r.html").read_text())


def test_a_track_that_was_never_seen_is_called_so(tmp_path: Path) -> None:
    """What the guard leaves behind where a face jumped away: the jump may be another face."""
    guard, gallery = Guard(GuardSettings(lookahead=0)), Gallery()
    for index in range(12):
        box = Box(60.0 if index < 6 else 160.0, 50.0, 40.0, 50.0)
        image = np.full((180, 320, 3), 10 * index, np.uint8)
        guard.push(index, index / 25, image, [Face(box, 0.9)])
        verdict = guard.pop()
        assert verdict is not None
        gallery(VideoFrame(image, Fraction(index, 25), index), list(verdict.covers))
    unseen = [track for track in guard.tracks if not track.seen]
    assert unseen, "the place that the face has left stays covered"
    text = text_of(tmp_path, guard.tracks, gallery)
    section = text[text.index(f"<h2>Track {unseen[0].track}</h2>") :].split("</section>")[0]
    assert "never seen" in section
    assert f"held {unseen[0].held}, filled 0" in section
    assert "best score" not in section, "it would be that of another track"
    assert "held</figcaption>" in section
    assert f"or, {len(unseen)} of them, in no frame" in text


def test_a_track_that_was_seen_is_not(tmp_path: Path) -> None:
    text = text_of(
        tmp_path, [TrackSummary(3, 4, 9, 2, 3, 1, 0, 0.41, True), TrackSummary(4, 0, 9, 9, 0, 0, 0, 0.9, False)]
    )
    assert "Track 3</h2><p>frames 4 to 9: seen in 2, held 3, filled 1, interpolated 0; best score 0.41</p>" in text
    assert "Track 4" not in text
    assert "never seen" not in text
    assert "1 of 2 tracks were not certain" in text
