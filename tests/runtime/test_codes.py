"""Codes of conditional generators: the rule, what people type, and codes drawn at random."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.codes import MAX_SIZE, Code, numbers_of, passcode_bits, read_picture
from runtime.errors import UsageError

STYLE = Code("one-hot", 4, (1, 0, 0, 0), labels=("monet", "van_gogh", "ukiyoe", "3"))
PLAIN = Code("one-hot", 4, (0, 1, 0, 0))
HAIR = Code("bits", 3, (-1, 1, -1), -1, 1, ("Black_Hair", "Young", "Male"))
BITS = Code("bits", 16, (0,) * 16)
UNITS = Code("vector", 3, (0, 0.5, 5), 0, 5, ("AU01", "AU02", "AU=3"))
TENTHS = Code("vector", 2, (0.1, 0.7), 0.1, 0.7)  # neither end is a float32


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("colour", 1, (0,)), "unknown kind of code 'colour'"),
        (("vector", 0, ()), "1 to 4096 numbers, not 0"),
        (("vector", MAX_SIZE + 1, (0,) * (MAX_SIZE + 1)), "1 to 4096 numbers, not 4097"),
        (("vector", 1, (0,), 1, 1), "must rise, not from 1 to 1"),
        (("vector", 1, (0,), 0, float("inf")), "must rise"),
        (("vector", 1, (0,), float("nan"), 1), "must rise"),
        (("vector", 1, (0,), 0, 1e39), "must rise"),
        (("vector", 1, (1,), 1, 1 + 1e-12), "must rise"),  # the same as float32
        (("vector", 2, (0,)), "has 2 numbers, not 1"),
        (("vector", 2, (0, 1.5)), "number 1 of the code is 1.5, outside 0 to 1"),
        (("vector", 1, (float("nan"),)), "number 0 of the code is nan, outside 0 to 1"),
        (("vector", 1, (1e300,)), "is 1e[+]300, outside 0 to 1"),
        (("bits", 2, (0, 0.5)), "is 0.5, neither 0 nor 1"),
        (("one-hot", 2, (0, 0)), "exactly one number"),
        (("one-hot", 2, (1, 1)), "exactly one number"),
        (("one-hot", 2, (1, 0), 0, 1, ("a",)), "as many different labels, not 1"),
        (("one-hot", 2, (1, 0), 0, 1, ("a", "a")), "as many different labels"),
        (("one-hot", 2, (1, 0), 0, 1, ("a", "")), "a label is a printable text"),
        (("one-hot", 2, (1, 0), 0, 1, ("a", " b")), "no space at its ends"),
        (("one-hot", 2, (1, 0), 0, 1, ("a", "\x1b[2J")), "a label is a printable text"),
    ],
)
def test_a_rule_that_contradicts_itself(arguments: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Code(*arguments)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros(3), r"has the shape \(4,\), not \(3,\)"),
        (np.zeros((4, 2, 2)), r"has the shape \(4,\), not \(4, 2, 2\)"),
        (np.zeros((1, 4)), "has the shape"),
        (np.array([0, 0, 0, np.nan]), "number 3 of the code is nan"),
        (np.array([0, 0, 0, 1e300]), "number 3 of the code is 1e[+]300, outside"),
        (np.zeros(4), "exactly one number of the code must be 1"),
    ],
)
def test_values_that_the_rule_does_not_allow(values: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        STYLE.checked(values)


def test_a_map_obeys_the_rule_at_every_pixel() -> None:
    values = np.zeros((4, 3, 5), np.float32)
    values[2] = 1
    np.testing.assert_array_equal(STYLE.checked(values, is_map=True), values)
    values[1, 2, 4] = 1
    with pytest.raises(UsageError, match="exactly one number"):
        STYLE.checked(values, is_map=True)
    with pytest.raises(UsageError, match="a map of 0x3 pixels has nothing in it"):
        STYLE.checked(values[:, :, :0], is_map=True)


def test_checked_values_are_a_copy() -> None:
    values = np.array([1, 0, 0, 0], np.float32)
    checked = STYLE.checked(values)
    values[:] = 7
    assert checked.tolist() == [1, 0, 0, 0]


# --- what people type -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "text", "numbers"),
    [
        (STYLE, "2", [0, 0, 1, 0]),
        (STYLE, " van_gogh ", [0, 1, 0, 0]),
        (STYLE, "3", [0, 0, 0, 1]),
        (PLAIN, "0", [1, 0, 0, 0]),
        (HAIR, "010", [-1, 1, -1]),
        (HAIR, "Young", [-1, 1, -1]),
        (HAIR, "Black_Hair + Male", [1, -1, 1]),
        (Code("bits", 2, (0, 0), labels=("a+b", "10")), "a+b", [1, 0]),
        (Code("bits", 2, (0, 0), labels=("a+b", "1")), "1", [0, 1]),
        (Code("bits", 2, (0, 0), labels=("a+b", "10")), "11", [1, 1]),
        (UNITS, "2.5", [2.5, 2.5, 2.5]),
        (UNITS, "1, 2,3e0", [1, 2, 3]),
        (UNITS, "AU02=1", [0, 1, 5]),
        (UNITS, "AU=3=2,AU01=4", [4, 0.5, 2]),
        (TENTHS, "0.1", [np.float32(0.1)] * 2),
        (TENTHS, "0.7,0.1", [np.float32(0.7), np.float32(0.1)]),
    ],
)
def test_what_people_type(code: Code, text: str, numbers: list[float]) -> None:
    values = code.parsed(text)
    assert values.dtype == np.float32
    assert values.tolist() == numbers
    np.testing.assert_array_equal(code.parsed(code.spelled(values)), values)


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        (PLAIN, "7", "style has 4 classes, 0 to 3; 7 is none of them"),
        (STYLE, "4", r"style has 4 classes, 0 to 3 \(monet, van_gogh, ukiyoe, 3\); 4 is none of them"),
        (PLAIN, "-1", "-1 is none"),
        (PLAIN, "1.0", "1.0 is none"),
        (PLAIN, "9" * 5000, "999 is none"),
        (PLAIN, "١", "is none of them"),
        (PLAIN, "", "is none of them"),
        (PLAIN, "monet", "monet is none of them"),
        (BITS, "0101", "style has 16 bits, not 4"),
        (BITS, "2" * 16, "style takes 16 digits 0 or 1; '2222222222222222' is none of that"),
        (HAIR, "Young+Old", r"labels joined by [+] \(Black_Hair, Young, Male\); 'Old' is none"),
        (HAIR, "", "'' is none of that"),
        (BITS, "passcode:", "the passcode is empty"),
        (BITS, "passcode:\ud800", "the passcode is no valid text"),
        (UNITS, "1,2", "style has 3 numbers, not 2"),
        (UNITS, "1,2,3,4", "style has 3 numbers, not 4"),
        (UNITS, "nan", "style: 'nan' is no number"),
        (UNITS, "1,inf,2", "style: 'inf' is no number"),
        (UNITS, "1_0", "is no number"),
        (UNITS, "", "style: '' is no number"),
        (UNITS, "5.1", "style: number 0 of the code is 5.1, outside 0 to 5"),
        (UNITS, "1e300", "outside 0 to 5"),
        (UNITS, "AU09=1", r"style: 'AU09' is no label of it \(AU01, AU02, AU=3\)"),
        (TENTHS, "a=1", "style: 'a' is no label of it"),
        (UNITS, "random:x", "style: 'x' is no seed"),
        (UNITS, "random:-1", "is no seed"),
    ],
)
def test_what_cannot_be_meant(code: Code, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        code.parsed(text, "style")
    assert len(str(caught.value)) < 300


def test_a_random_vector_is_the_same_on_every_machine() -> None:
    """These numbers follow from SHA-256 alone; another implementation must give them too."""
    values = Code("vector", 2, (0, 0), -3, 3).parsed("random:7")
    for place, value in enumerate(values):
        digest = hashlib.sha256(f"genedge random 7 {place}".encode()).hexdigest()
        assert value == np.float32(-3 + 6 * (int(digest[:8], 16) / (2**32 - 1)))
    assert values.tolist() != Code("vector", 2, (0, 0), -3, 3).parsed("random:8").tolist()


def test_a_passcode_is_the_same_on_every_machine() -> None:
    digest = hashlib.sha256(b"genedge passcode\0\0\0\0\0" + "naïve".encode()).hexdigest()
    wanted = f"{int(digest[:4], 16):016b}"
    assert BITS.spelled(BITS.parsed("passcode:naïve")) == wanted
    assert BITS.spelled(BITS.parsed("passcode:nai\u0308ve")) == wanted  # the same letters, as macOS types them
    assert BITS.spelled(BITS.parsed("passcode:naive")) != wanted


def test_a_long_passcode_code_does_not_repeat() -> None:
    bits = passcode_bits("x", 600)
    assert len(bits) == 600
    assert bits[:256] != bits[256:512]
    assert bits[:16] == passcode_bits("x", 16)


# --- keys -------------------------------------------------------------------------------------------------------------


def test_keys_step_through_classes() -> None:
    values = PLAIN.parsed("3")
    assert PLAIN.spelled(PLAIN.stepped(values, 1)) == "0"
    assert PLAIN.spelled(PLAIN.stepped(values, -1)) == "2"


def test_keys_count_through_bits() -> None:
    code = Code("bits", 2, (-1, -1), -1, 1)
    values, seen = code.parsed("00"), []
    for _ in range(5):
        seen.append(code.spelled(values))
        values = code.stepped(values, 1)
    assert seen == ["00", "01", "10", "11", "00"]
    assert code.spelled(code.stepped(code.parsed("00"), -1)) == "11"


def test_keys_move_all_numbers_of_a_vector_and_keep_their_distances() -> None:
    code = Code("vector", 2, (0, 0), -1, 1)
    values = code.parsed("-0.5,0.85")
    up = code.stepped(values, 1)
    np.testing.assert_allclose(up, [-0.4, 0.95], rtol=1e-6)
    top = code.stepped(up, 1)
    np.testing.assert_allclose(top, [-0.35, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(code.stepped(top, 1), top)
    for _ in range(50):
        values = code.checked(code.stepped(values, -1))
    np.testing.assert_allclose(values, [-1, 0.35], rtol=1e-6)


# --- properties -------------------------------------------------------------------------------------------------------


@st.composite
def rules(draw: st.DrawFn) -> Code:
    kind = draw(st.sampled_from(["vector", "one-hot", "bits"]))
    size = draw(st.integers(1, 6))
    low, high = draw(st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.1, 0.7), (-1e30, 1e30), (1e-7, 2e-7)]))
    labels = tuple(f"label{place}" for place in range(size)) if draw(st.booleans()) else ()
    default = (high, *(low,) * (size - 1))
    return Code(kind, size, default, low, high, labels)


@settings(max_examples=200, deadline=None)
@given(rules(), st.integers(0, 1 << 30))
def test_drawn_stepped_and_spelled_codes_obey_the_rule(code: Code, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = code.drawn(rng)
    np.testing.assert_array_equal(code.checked(values), values)
    np.testing.assert_array_equal(code.parsed(code.spelled(values)), values)
    for direction in (1, -1):
        code.checked(code.stepped(values, direction))
    drawn = code.drawn_map(rng, 7, 5)
    assert drawn.shape == (code.size, 7, 5)
    code.checked(drawn, is_map=True)
    code.check(numbers_of(values))


@settings(max_examples=300, deadline=None)
@given(rules(), st.text(max_size=30) | st.from_regex(r"(random:|passcode:|label0=)?[-+0-9.,e=]{0,12}", fullmatch=True))
def test_whatever_is_typed_is_a_valid_code_or_a_usage_error(code: Code, text: str) -> None:
    with contextlib.suppress(UsageError):
        values = code.parsed(text)
        np.testing.assert_array_equal(code.checked(values), values)


def test_draws_differ_and_cover_the_rule() -> None:
    rng = np.random.default_rng(0)
    assert {int(np.argmax(STYLE.drawn(rng))) for _ in range(60)} == {0, 1, 2, 3}
    assert {tuple(HAIR.drawn(rng)) for _ in range(100)} == {
        (a, b, c) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)
    }
    drawn = np.array([UNITS.drawn(rng) for _ in range(200)])
    assert drawn.min() < 0.1 < 4.9 < drawn.max()
    assert len({tuple(column) for column in STYLE.drawn_map(rng, 9, 9).reshape(4, -1).T}) > 1


# --- maps -------------------------------------------------------------------------------------------------------------


def picture(path: Path, content: Any, dtype: Any = np.uint8) -> Path:
    cv2.imwrite(str(path), np.asarray(content, dtype))
    return path


def test_classes_are_read_from_a_grey_picture(tmp_path: Path) -> None:
    path = picture(tmp_path / "classes.png", [[0, 1], [2, 3]])
    values = read_picture(path, PLAIN).numbers(PLAIN, 4, 6)
    np.testing.assert_array_equal(
        values.argmax(axis=0), [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], [2, 2, 2, 3, 3, 3], [2, 2, 2, 3, 3, 3]]
    )
    PLAIN.checked(values, is_map=True)
    smaller = read_picture(path, PLAIN).numbers(PLAIN, 1, 1)
    assert smaller.shape == (4, 1, 1)


def test_a_grey_picture_saved_in_colour_is_still_grey(tmp_path: Path) -> None:
    path = picture(tmp_path / "classes.png", [[[2, 2, 2], [1, 1, 1]]])
    np.testing.assert_array_equal(read_picture(path, PLAIN).numbers(PLAIN, 1, 2).argmax(axis=0), [[2, 1]])


def test_black_is_low_and_white_is_high(tmp_path: Path) -> None:
    code = Code("vector", 3, (0, 0, 0), -1, 1)
    colour = picture(tmp_path / "colour.png", [[[0, 51, 255]]])  # OpenCV writes BGR
    np.testing.assert_allclose(read_picture(colour, code).numbers(code, 2, 2)[:, 0, 0], [1, -0.6, -1], rtol=1e-6)
    grey = picture(tmp_path / "grey.png", [[0, 65535]], np.uint16)
    np.testing.assert_array_equal(read_picture(grey, code).numbers(code, 1, 2), [[[-1, 1]]] * 3)
    bits = Code("bits", 2, (0, 0))
    grey = picture(tmp_path / "grey.png", [[0, 127, 128, 255]])
    np.testing.assert_array_equal(read_picture(grey, bits).numbers(bits, 1, 4), [[[0, 0, 1, 1]]] * 2)


def test_pictures_that_are_no_map(tmp_path: Path) -> None:
    code = Code("vector", 2, (0, 0))
    colour = picture(tmp_path / "colour.png", [[[0, 1, 2]]])
    for path, rule, words in (
        (tmp_path / "none.png", PLAIN, "style: .*none.png is no file"),
        (tmp_path, PLAIN, "is no file"),
        (colour, PLAIN, "is in colour, but classes are a grey picture"),
        (colour, code, "has 3 planes, but a map of 2 numbers takes a grey picture"),
        (picture(tmp_path / "four.png", [[0, 4]]), PLAIN, r"style has 4 classes, 0 to 3; 4 in .*four.png is none"),
    ):
        with pytest.raises(UsageError, match=words):
            read_picture(path, rule, "style")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_text("")
    picture(tmp_path / "lossy.jpg", [[0, 1]]).rename(tmp_path / "lossy.png")
    (tmp_path / "cut.png").write_bytes(colour.read_bytes()[:-20])
    for name in ("text.png", "empty.png", "lossy.png", "cut.png"):
        with pytest.raises(UsageError, match=f"{name} is not a PNG that can be read"):
            read_picture(tmp_path / name, PLAIN, "style")
    alpha = picture(tmp_path / "alpha.png", [[[1, 1, 1, 255]]])
    for rule, words in ((PLAIN, "has 4 planes, one of them how opaque"), (code, "has 4 planes, one of them how opaq")):
        with pytest.raises(UsageError, match=words):
            read_picture(alpha, rule, "style")
    three = Code("vector", 3, (0, 0, 0))
    with pytest.raises(UsageError, match="has 4 planes"):
        read_picture(alpha, three, "style")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UsageError, match="is no file"):
        read_picture(tmp_path / "pipe.png", PLAIN, "style")


def test_a_picture_with_a_palette_is_taken_by_its_colours(tmp_path: Path) -> None:
    """A palette in grey is a grey picture; one in colour says nothing about classes."""
    path = tmp_path / "palette.png"
    for palette, words in (((0, 0, 0, 2, 2, 2), None), ((0, 0, 0, 128, 0, 0), "classes are a grey picture")):
        path.write_bytes(palette_png([[0, 1], [1, 0]], bytes(palette)))
        if words is None:
            classes = read_picture(path, PLAIN).numbers(PLAIN, 2, 2).argmax(axis=0)
            np.testing.assert_array_equal(classes, [[0, 2], [2, 0]])
        else:
            with pytest.raises(UsageError, match=words):
                read_picture(path, PLAIN)


def palette_png(rows: list[list[int]], palette: bytes) -> bytes:
    lines = b"".join(b"\0" + bytes(row) for row in rows)
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 3, 0, 0, 0)
    parts = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in parts:
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return data


def test_a_small_file_that_claims_a_huge_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """32768x32768 pixels in colour with 16 bits are 8 GiB, and OpenCV would take them."""
    path = picture(tmp_path / "huge.png", [[0, 1]])
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 1 << 15, 1 << 15)
    path.write_bytes(data)
    monkeypatch.setattr(cv2, "imdecode", lambda *args: pytest.fail("decoded"))
    with pytest.raises(UsageError, match=r"huge.png has 32768x32768 pixels, more than the 64 million allowed"):
        read_picture(path, PLAIN, "style")


def test_a_map_that_would_fill_the_memory(tmp_path: Path) -> None:
    code = Code("vector", 4096, (0,) * 4096)
    grey = read_picture(picture(tmp_path / "grey.png", [[0, 255]]), code)
    with pytest.raises(UsageError, match="a map of 4096 numbers for frames of 1920x1080 takes more than 2 GiB"):
        grey.numbers(code, 1080, 1920)


def test_the_numbers_of_a_map_that_is_the_same_everywhere() -> None:
    assert numbers_of(np.full((2, 3, 4), 0.5, np.float32)) == (0.5, 0.5)
    with pytest.raises(UsageError, match="differs from place to place"):
        numbers_of(np.arange(4, dtype=np.float32).reshape(1, 2, 2))
