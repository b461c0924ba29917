"""Subtitles one after the other, and damaged files with everything in them."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2
from clip_factory import Sound, Subtitles, pictures, texts, write_clip
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import VideoError
from runtime.video.extras import Cue, Cues
from runtime.video.sink import open_sink
from runtime.video.source import open_source

LINES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), max_size=12)


@given(lines=LINES, looks=st.booleans())
def test_cues_never_overlap_and_show_at_any_time_what_was_to_be_shown(
    lines: list[tuple[int, int]], looks: bool
) -> None:
    given_lines = [(begin, begin + length, b"%d" % i) for i, (begin, length) in enumerate(sorted(lines))]
    cues, found = Cues(), list[Cue]()
    for begin, end, line in given_lines:
        if looks:  # as the file is written up to there
            found += cues.ended(Fraction(begin))
        found += cues.add(Fraction(begin), Fraction(end), line)
    found += cues.ended(None)
    assert all(cue.begin < cue.end for cue in found)
    assert all(one.end <= other.begin for one, other in pairwise(found))
    for time in range(45):
        shown = [line for cue in found if cue.begin <= time < cue.end for line in cue.lines]
        assert shown == [line for begin, end, line in given_lines if begin <= time < end]


def test_a_line_is_written_once_it_has_ended_and_not_before() -> None:
    cues = Cues()
    assert cues.add(Fraction(1), Fraction(3), b"a") == []
    assert cues.ended(Fraction(2)) == []
    assert cues.ended(Fraction(3)) == [Cue(Fraction(1), Fraction(3), (b"a",))]
    assert cues.ended(None) == []


def test_overlapping_lines_in_mp4(tmp_path: Path) -> None:
    overlapping = Subtitles("ass", ((100, 500, "one"), (100, 500, "two"), (300, 900, "three")))
    clip, out = write_clip(tmp_path / "in.mkv", subtitles=[overlapping]), tmp_path / "out.mp4"
    with open_source(str(clip)) as source:
        sink = open_sink(str(out), source=source.info, width=96, height=72, extras=True)
        for frame in source:
            sink.write(frame)
        sink.close()
    found = [line for line in texts(out)[0] if line[2]]
    assert found == [(100, 300, "one\ntwo"), (300, 500, "one\ntwo\nthree"), (500, 900, "three")]


def test_damaged_files_end_with_a_sentence_or_a_file(tmp_path: Path) -> None:
    """The clips of `test_mutated.py` have none of what is damaged here: subtitles, chapters, tags, attached files."""
    cover = cv2.imencode(".jpg", pictures(1, (64, 64))[0])[1].tobytes()
    made = {
        "ticks": range(8),
        "size": (32, 24),
        "sounds": [Sound(seconds=Fraction(1, 5))],
        "chapters": [(0, 100, "One"), (100, 300, "Two")],
        "tags": {"title": "A day", "mood": "calm"},
    }
    attached = [("a.ttf", "font/ttf", bytes(300)), ("cover.jpg", "image/jpeg", cover)]
    texts_of = [Subtitles("ass", tags={"language": "fra"}), Subtitles("subrip")]
    clips = [
        write_clip(tmp_path / "in.mkv", subtitles=texts_of, attachments=attached, **made),
        write_clip(tmp_path / "in.mp4", subtitles=[Subtitles("mov_text")], **made),
    ]
    ends = {"file": 0, "sentence": 0}
    for number in range(60):
        chance = random.Random(number)
        clip = clips[number % 2]
        data = bytearray(clip.read_bytes())
        for _ in range(chance.choice((1, 4, 40))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        damaged, out = tmp_path / f"damaged{clip.suffix}", tmp_path / f"out.{('mkv', 'mp4', 'webm')[number % 3]}"
        damaged.write_bytes(bytes(data))
        try:
            with open_source(str(damaged)) as source:
                info = source.info
                with open_sink(
                    str(out), source=info, width=info.width, height=info.height, extras=True, overwrite=True
                ) as sink:
                    for frame in source:
                        sink.write(frame)
            ends["file"] += 1
        except VideoError:
            ends["sentence"] += 1
    assert min(ends.values()) > 5, ends
