"""What a video file holds beside pictures and sound: subtitles, chapters, tags, covers and attached files.

Of these a container holds some as they are, some in another form, some not at all. What cannot be kept is said.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from runtime.video.source import ATTACHED_PICTURE

_UNREAD = 48  # AVDISCARD_ALL: FFmpeg reads the chapters out of such a track itself
_TEXT = ("ass", "ssa", "srt", "subrip", "mov_text", "webvtt", "text")  # subtitles that are no pictures
_TEXT_OF = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}
_MOVIE = ("mp4", "mov")
#: Tags that describe the old file itself, or what its pixels no longer are
_OWN = (
    "major_brand", "minor_version", "compatible_brands", "encoder", "rotate", "timecode", "duration", "handler_name",
    "vendor_id",
)  # fmt: skip
#: Tags that FFmpeg writes to MP4 and MOV in the form that players know best; for any other one it has a second form
_USUAL = {
    "mp4": (
        "title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright", "grouping",
        "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords", "episode_sort",
        "season_number", "media_type", "hd_video", "gapless_playback", "compilation", "track", "disc", "location",
        "creation_time",
    ),
    "mov": (
        "title", "artist", "album", "date", "comment", "genre", "copyright", "location", "creation_time", "make",
        "model",
    ),
}  # fmt: skip


_LATEST = Fraction(10**7)  # seconds, four months: what is said to come later is damage


class _Track:
    """A track of subtitles. ``out``: the one of the output; ``converts``: they are written in another form."""

    def __init__(self, out: Any, converts: bool, merges: bool = False) -> None:
        self.out, self.converts = out, converts
        self.cues = Cues() if merges else None
        self.last = 0  # when the newest one begins, in the ticks of its packets


class Cue(NamedTuple):
    """What is shown from ``begin`` to ``end``: ``lines``, the first on top."""

    begin: Fraction
    end: Fraction
    lines: tuple[bytes, ...]


class Cues:
    """Makes of subtitles that overlap those of which one ends before the next begins, with the lines of all in it."""

    def __init__(self) -> None:
        self._now = Fraction(0)  # up to here all is said
        self._shown: list[tuple[Fraction, bytes]] = []  # (end, line)

    def add(self, begin: Fraction, end: Fraction, line: bytes) -> list[Cue]:
        """Take the next one, seconds, in the order of ``begin``. Returns what is certain by now."""
        cues = self.ended(begin)
        if self._shown and self._now < begin:
            cues.append(Cue(self._now, begin, tuple(line for _, line in self._shown)))
        self._now = max(self._now, begin)
        if end > self._now:
            self._shown.append((end, line))
        return cues

    def ended(self, until: Fraction | None) -> list[Cue]:
        """What has ended by ``until``, None: everything; where the next one does not begin before that."""
        cues = []
        while self._shown:
            end = min(end for end, _ in self._shown)
            if until is not None and end > until:
                break
            cues.append(Cue(self._now, end, tuple(line for _, line in self._shown)))
            self._now = end
            self._shown = [(later, line) for later, line in self._shown if later > end]
        return cues


class Extras:
    """The subtitles, chapters, tags, covers and attached files of a file, on their way into the output.

    Tracks are added when it is made, so that must be before the output's header is written, and after its video and
    sound were added. Where there are subtitles, the file is read once more, as far as is needed.
    """

    def __init__(self, path: Path, output: Any, suffix: str, video: Any, warnings: list[str]) -> None:
        """``output``: the container to write, a file that ends in ``suffix``; ``video``: its video track. ``warnings``
        gets a sentence about each kind of thing that cannot be kept as it is."""
        import av

        self._path, self._output, self._warnings = path, output, warnings
        self._kind: str = output.format.name
        self._suffix = suffix
        self._shift = Fraction(0)
        self._ahead: Any = None  # a packet that was read but is not due yet
        self._covers: list[Any] = []  # packets that are due once the header is written
        self._input: Any = av.open(str(path), metadata_errors="replace")
        streams = list(self._input.streams)
        self._keep_tags(video, [stream for stream in streams if stream.type == "video"])
        self._tracks: dict[int, _Track] = {}
        subtitles = [stream for stream in streams if stream.type == "subtitle"]
        self._add_subtitles(subtitles)
        self._add_attachments(streams)
        self._tell_left_out(streams)
        kept = [stream for stream in subtitles if stream.index in self._tracks]
        for stream in streams:
            if stream not in kept:
                stream.discard = av.stream.Discard.all
        self._packets: Iterator[Any] = self._input.demux(*kept) if kept else iter(())

    # -- before the header is written -----------------------------------------------------------

    def move(self, seconds: Fraction) -> None:
        """Show everything ``seconds`` later than in the source; called once, before the header is written."""
        self._shift = seconds
        kept = []
        for chapter in self._input.chapters():
            base = chapter["time_base"]
            begin, end = (max(0, chapter[edge] + round(seconds / base)) for edge in ("start", "end"))
            if begin <= end and end * base < _LATEST:
                kept.append({**chapter, "start": begin, "end": end})
        if kept:
            self._output.set_chapters(kept)

    def _keep_tags(self, video: Any, before: list[Any]) -> None:
        tags = {key: value for key, value in self._input.metadata.items() if key.lower() not in _OWN and value}
        # MP4 gives a tag with a language a second time, under a name of its own
        doubles = [key for key in tags if tags.get(key.rpartition("-")[0]) == tags[key]]
        tags = {key: value for key, value in tags.items() if key not in doubles}
        self._output.metadata.update(tags)
        if self._kind in _MOVIE and not {key.lower() for key in tags} <= set(_USUAL[self._kind]):
            flags = {**self._output.options, **self._output.container_options}.get("movflags", "")
            self._output.container_options["movflags"] = f"{flags}+use_metadata_tags"
        if before:
            name_track(video, before[0])

    def _add_subtitles(self, streams: list[Any]) -> None:
        converted, left_out = [], []
        for stream in streams:
            codec = stream.codec_context.name if stream.codec_context is not None else "unknown"
            track = self._track_for(stream, codec)
            if track is None:
                left_out.append(codec)
                continue
            if track.converts:
                converted.append(codec)
            name_track(track.out, stream)
            self._tracks[stream.index] = track
        if converted:
            self._say(
                f"{_many(converted, 'subtitle track')} became {_TEXT_OF[self._kind]}, the form of subtitles in a "
                f"{self._suffix} file"
            )
        if left_out:
            self._leave_out(left_out, "subtitle track")

    def _track_for(self, stream: Any, codec: str) -> _Track | None:
        if stream.codec_context is None:
            return None
        if codec in self._output.supported_codecs and not (codec == "text" and self._kind in _MOVIE):
            return _Track(self._output.add_stream_from_template(stream), False)
        wanted = _TEXT_OF[self._kind]
        if codec not in _TEXT:
            return None
        stream.codec_context.open(strict=False)
        out = self._output.add_stream(wanted)
        out.codec_context.subtitle_header = stream.codec_context.subtitle_header or b""
        out.time_base = out.codec_context.time_base = Fraction(1, 1000)
        return _Track(out, True, merges=self._kind in _MOVIE)

    def _add_attachments(self, streams: list[Any]) -> None:
        covers = [stream for stream in streams if is_cover(stream)]
        files = [stream for stream in streams if stream.type == "attachment"]
        left_out = []
        for stream in files:
            if self._kind == "matroska":
                self._output.add_attachment(stream.name or "attachment", stream.mimetype or "", stream.data)
            else:
                left_out.append(stream.metadata.get("filename", "without a name"))
        for stream in covers:
            picture = self._picture_of(stream)
            codec = stream.codec_context.name if stream.codec_context is not None else ""
            name = stream.metadata.get("filename", f"cover.{'png' if codec == 'png' else 'jpg'}")
            if picture is not None and self._kind == "matroska":
                kind = stream.metadata.get("mimetype", f"image/{'png' if codec == 'png' else 'jpeg'}")
                self._output.add_attachment(name, kind, bytes(picture))
            elif picture is not None and self._kind == "mp4" and codec in ("mjpeg", "png"):
                out = self._output.add_stream_from_template(stream, opaque=True)
                out.disposition = ATTACHED_PICTURE
                picture.stream = out
                self._covers.append(picture)
            else:
                left_out.append(name)
        if left_out:
            self._leave_out(left_out, "attached file")

    def _picture_of(self, stream: Any) -> Any:
        """The packet with a cover's picture, or None."""
        import av

        with av.open(str(self._path), metadata_errors="replace") as again, contextlib.suppress(av.FFmpegError):
            return next((packet for packet in again.demux(again.streams[stream.index]) if packet.size), None)
        return None

    def _tell_left_out(self, streams: list[Any]) -> None:
        videos = [stream for stream in streams if stream.type == "video" and not is_cover(stream)]
        if len(videos) > 1:
            self._say(f"only the first of {len(videos)} video tracks is used")
        data = [s for s in streams if s.type == "data" and int(s.discard) != _UNREAD]
        if data:
            self._say(f"without {len(data)} data track{'s' * (len(data) > 1)}, such as a time code")

    def _leave_out(self, names: list[str], what: str) -> None:
        self._say(f"without {_many(names, what)}: a {self._suffix} file cannot hold that")

    def _say(self, text: str) -> None:
        self._warnings.append(f"{self._path.name}: {text}")

    # -- while the video is written -------------------------------------------------------------

    def copy(self, *, until: Fraction | None) -> None:
        """Copy what begins before ``until``, seconds on the output's clock, or everything."""
        while self._covers:
            self._output.mux(self._covers.pop())
        while (packet := self._next()) is not None:
            if until is not None and packet.pts * packet.time_base + self._shift >= until:
                self._ahead = packet
                break
            self._put(packet)
        for track in self._tracks.values():
            if track.cues is not None:
                for cue in track.cues.ended(until):
                    self._write(track, cue)

    def close(self) -> None:
        self._packets = iter(())
        self._ahead = None
        self._covers.clear()
        self._input.close()

    def _next(self) -> Any:
        import av

        if self._ahead is not None:
            packet, self._ahead = self._ahead, None
            return packet
        while True:
            try:
                packet = next(self._packets, None)
            except av.FFmpegError as error:
                self._packets = iter(())
                self._say(f"the subtitles break off: {error.strerror}")
                return None
            if packet is None or (packet.pts is not None and packet.size):
                return packet

    def _put(self, packet: Any) -> None:
        import av

        track = self._tracks[packet.stream.index]
        context, base = packet.stream.codec_context, packet.time_base
        begin = packet.pts + round(self._shift / base)
        end = begin + (packet.duration or 0)
        # after the clock was moved, some are over before the first frame; and no file has them in another order
        begin = max(track.last, begin)
        if end < begin or end * base > _LATEST:
            return
        track.last = begin
        if context.name == "mov_text" and bytes(packet)[:2] == b"\0\0":
            return  # fills the time until the next one, as the muxer does itself
        if track.converts:
            try:
                read = context.decode2(packet)
                lines = [subtitle.ass for subtitle in read or ()]
            except (av.FFmpegError, UnicodeDecodeError):
                return  # a damaged one: leave it out
            for line in lines:
                cue = Cue(begin * base, end * base, (line,))
                for each in [cue] if track.cues is None else track.cues.add(cue.begin, cue.end, line):
                    self._write(track, each)
            return
        packet.pts = packet.dts = begin
        packet.duration = end - begin
        packet.stream = track.out
        self._output.mux(packet)

    def _write(self, track: _Track, cue: Cue) -> None:
        """Write a subtitle whose lines are as ASS has them in Matroska: eight fields, then the text."""
        import av
        from av.subtitles.subtitle import SubtitleSet

        head = cue.lines[0].split(b",", 8)[:8]
        texts = [line.split(b",", 8)[-1] for line in cue.lines]
        begin, end = (round(time * 1000) for time in cue[:2])
        subtitle = SubtitleSet.create(text=b",".join([*head, b"\\N".join(texts)]), start=0, end=end - begin, pts=0)
        try:
            packet = track.out.codec_context.encode_subtitle(subtitle)
        except av.FFmpegError:
            return
        packet.pts = packet.dts = begin
        packet.duration, packet.time_base = end - begin, Fraction(1, 1000)
        packet.stream = track.out
        self._output.mux(packet)


def is_cover(stream: Any) -> bool:
    """Whether a video track is a picture that stands for the file."""
    return stream.type == "video" and bool(int(stream.disposition) & ATTACHED_PICTURE)


def name_track(out: Any, stream: Any) -> None:
    """Give the track ``out`` of the output the language, the title and the uses of a track of the source."""
    language = stream.metadata.get("language")
    title = stream.metadata.get("title") or stream.metadata.get("name")  # MP4 says name
    if language and language != "und":
        out.metadata["language"] = language
    if title:
        out.metadata["title"] = title
    out.disposition = int(stream.disposition)


def _many(names: list[str], what: str) -> str:
    return f"{len(names)} {what}{'s' * (len(names) > 1)} ({', '.join(names)})"
