"""The two forms of H.264 and HEVC packets: units behind start codes, as encoders give them, and units behind their
lengths, as files have them (ISO/IEC 14496-15, four bytes)."""

from __future__ import annotations

from collections.abc import Iterator

_START = b"\0\0\1"
_AV1_DELIMITER = b"\x12\0"  # a temporal delimiter, which files leave out


def parts_of(encoder: str, data: bytes) -> Iterator[bytes]:
    """What a file keeps of a packet of ``encoder`` (FFmpeg's name), piece by piece."""
    if "264" in encoder or "265" in encoder or "hevc" in encoder:
        for unit in _units(data):
            yield len(unit).to_bytes(4, "big")
            yield unit
    elif "av1" in encoder and data.startswith(_AV1_DELIMITER):
        yield data[len(_AV1_DELIMITER) :]
    else:
        yield data


def _units(data: bytes) -> Iterator[bytes]:
    """The units behind the start codes of three or four bytes; before the first there is nothing."""
    at = data.find(_START)
    while at >= 0:
        begin = at + len(_START)
        at = data.find(_START, begin)
        end = len(data) if at < 0 else at - (data[at - 1] == 0)
        yield data[begin:end]


def with_start_codes(data: bytes) -> bytes:
    """Units behind start codes in the place of units behind their lengths; as many bytes.

    Raises ``ValueError`` where the lengths do not fit.
    """
    out, at = bytearray(data), 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if not 0 < length <= len(data) - at - 4:
            raise ValueError("the lengths of the units do not fit the packet")
        out[at : at + 4] = b"\0" + _START
        at += 4 + length
    return bytes(out)
