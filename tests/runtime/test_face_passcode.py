from __future__ import annotations

import getpass
import io
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import GenedgeError, MissingExtraError, UsageError, VideoError
from runtime.faces.passcode import (
    PASSCODE_VARIABLE,
    Cost,
    RecordingKeys,
    expanded,
    extracted,
    read_passcode,
    recording_of,
    salt_of,
    stretched,
)
from runtime.faces.types import TrackKeys
from runtime.video.source import SourceInfo, open_source

CHEAP = Cost(32, 1, 4)
KEYS = RecordingKeys(bytes(range(32)))


# --- published vectors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("material", "salt", "info", "length", "key", "result"),
    [
        (  # RFC 5869, A.1
            b"\x0b" * 22,
            bytes(range(13)),
            bytes(range(0xF0, 0xFA)),
            42,
            "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (  # RFC 5869, A.3: neither salt nor info
            b"\x0b" * 22,
            b"",
            b"",
            42,
            "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
)
def test_hkdf_is_that_of_the_rfc(material: bytes, salt: bytes, info: bytes, length: int, key: str, result: str) -> None:
    assert extracted(salt, material).hex() == key
    assert expanded(bytes.fromhex(key), info, length).hex() == result


@given(st.binary(max_size=64), st.binary(max_size=40), st.binary(max_size=40), st.integers(1, 8160))
def test_hkdf_agrees_with_cryptography(material: bytes, salt: bytes, info: bytes, length: int) -> None:
    hkdf = pytest.importorskip("cryptography.hazmat.primitives.kdf.hkdf")
    hashes = pytest.importorskip("cryptography.hazmat.primitives.hashes")
    theirs = hkdf.HKDF(hashes.SHA256(), length, salt, info).derive(material)
    assert expanded(extracted(salt, material), info, length) == theirs


def test_hkdf_gives_at_most_255_blocks() -> None:
    with pytest.raises(ValueError, match="8160"):
        expanded(bytes(32), b"", 8161)


def test_argon2id_is_that_of_the_rfc() -> None:
    """RFC 9106, 5.3."""
    pytest.importorskip("cryptography")
    tag = stretched(b"\1" * 32, b"\2" * 16, Cost(32, 3, 4), secret=b"\3" * 8, data=b"\4" * 12)
    assert tag.hex() == "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"


def test_a_guess_costs_what_the_rfc_recommends() -> None:
    assert Cost() == Cost(64 * 1024, 3, 4)


@pytest.mark.parametrize(
    "cost",
    [(1 << 30, 3, 4), ((1 << 18) + 1, 3, 4), (65536, 17, 4), (65536, 0, 4), (8192, 1, 17), (64, 1, 0), (31, 1, 4)],
)
def test_a_cost_that_no_machine_should_pay_is_refused(cost: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="Argon2id"):
        Cost(*cost)


# --- keys -------------------------------------------------------------------------------------------------------------


def test_everything_that_goes_in_matters_and_nothing_else() -> None:
    pytest.importorskip("cryptography")

    def key(passcode: str = "secret", salt: bytes = b"s" * 16, recording: bytes = b"r" * 32, track: int = 3) -> bytes:
        return RecordingKeys.from_passcode(passcode, salt, recording, cost=CHEAP).key(track)

    keys = [key(), key("secres"), key(salt=b"t" * 16), key(recording=b"q" * 32), key(track=4)]
    assert len(set(keys)) == 5
    assert all(len(one) == 32 for one in keys)
    assert key() == keys[0]
    assert RecordingKeys.from_passcode("secret", b"s" * 16, b"r" * 32, cost=Cost(40, 1, 4)).key(3) != keys[0]


def test_a_passcode_is_the_same_however_unicode_spells_it() -> None:
    pytest.importorskip("cryptography")
    composed, apart = "caf\u00e9", "cafe\u0301"
    one, other = (RecordingKeys.from_passcode(text, b"s" * 16, b"", cost=CHEAP).key(0) for text in (composed, apart))
    assert one == other


def test_an_empty_passcode_is_none() -> None:
    with pytest.raises(UsageError, match="empty"):
        RecordingKeys.from_passcode("", b"s" * 16, b"")


@given(st.integers(0, 2**64 - 1), st.integers(1, 1 << 40))
def test_a_number_is_in_its_range_and_stays(track: int, below: int) -> None:
    assert 0 <= KEYS.number(track, below) < below
    assert KEYS.number(track, below) == KEYS.number(track, below)


def test_numbers_and_bits_are_even() -> None:
    counts = np.bincount([KEYS.number(track, 16) for track in range(3200)], minlength=16)
    assert counts.size == 16
    assert np.abs(counts - 200).max() < 70
    ones = np.mean([KEYS.bits(track, 16) for track in range(1000)])
    assert abs(ones - 0.5) < 0.02  # 5 of 0.004


def test_a_number_below_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no number"):
        KEYS.number(0, 0)


@given(st.integers(0, 1 << 20), st.integers(0, 300))
def test_bits_are_zeros_and_ones(track: int, count: int) -> None:
    bits = KEYS.bits(track, count)
    assert bits.dtype == np.float32
    assert bits.shape == (count,)
    assert set(bits.tolist()) <= {0.0, 1.0}
    assert np.array_equal(bits, KEYS.bits(track, 300)[:count])


def test_random_keys_differ_and_need_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.__import__", _without_cryptography(__import__))
    keys: list[TrackKeys] = [RecordingKeys.random(), RecordingKeys.random()]
    assert not np.array_equal(keys[0].bits(0, 128), keys[1].bits(0, 128))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.__import__", _without_cryptography(__import__))
    with pytest.raises(MissingExtraError, match=r"genedge\[deid\]"):
        RecordingKeys.from_passcode("secret", b"s" * 16, b"", cost=CHEAP)


def _without_cryptography(usual: Callable[..., Any]) -> Callable[..., Any]:
    def find(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "cryptography":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return usual(name, *rest, **more)

    return find


def test_nothing_shows_the_secret() -> None:
    assert repr(KEYS) == "RecordingKeys(…)"
    assert str(KEYS) == repr(KEYS)


# --- recordings -------------------------------------------------------------------------------------------------------


def test_a_file_is_the_same_recording_wherever_it_lies(tmp_path: Path, make_clip: Callable[..., Path]) -> None:
    clip, other = make_clip(), make_clip("other.mp4", ticks=[0, 3600, 7200])
    with open_source(str(clip)) as source:
        name = recording_of(clip, source.info)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    assert recording_of(str(copy)) == name
    assert len(name) == 32
    assert recording_of(other) != name
    assert salt_of(name) == salt_of(name) != salt_of(recording_of(other))
    assert len(salt_of(name)) == 16


@pytest.mark.parametrize("place", [0, 1 << 20, (3 << 20) - 1])
def test_both_ends_and_the_size_of_a_file_count(tmp_path: Path, place: int) -> None:
    path = tmp_path / "clip.mkv"
    path.write_bytes(bytes(3 << 20))
    names = {recording_of(path)}
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"x")
    names.add(recording_of(path))
    assert len(names) == (1 if place == 1 << 20 else 2)  # the middle is not read, as documented
    path.write_bytes(bytes((3 << 20) + 1))
    assert recording_of(path) not in names


@pytest.mark.parametrize("form", ["{}", "{}/%d.png"])
def test_pictures_are_known_by_all_of_them(tmp_path: Path, photo_folder: Path, form: str) -> None:
    import shutil

    folder = tmp_path / "photos"
    shutil.copytree(photo_folder, folder)
    text = form.format(folder)
    before = recording_of(text)
    assert before == recording_of(form.format(photo_folder))
    (folder / "3.png").unlink()
    assert recording_of(text) != before


def test_what_is_live_is_never_the_same() -> None:
    info = SourceInfo("0", 64, 48, None, Fraction(1, 90_000), live=True)
    assert recording_of("0", info) != recording_of("0", info)
    assert recording_of("rtsp://camera/1") != recording_of("rtsp://camera/1")


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="No such file"):
        recording_of(f"{tmp_path}/missing/%d.png")


# --- where the passcode comes from ------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_passcode_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSCODE_VARIABLE, raising=False)


def _private(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def test_the_file_comes_first_then_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PASSCODE_VARIABLE, "from the usual variable")
    monkeypatch.setenv("MINE", "from mine\n")
    file = _private(tmp_path / "passcode", "from the file\n")
    assert read_passcode(file, "MINE", ask=True) == "from the file"
    assert read_passcode(None, "MINE", ask=True) == "from mine"
    assert read_passcode(None, None, ask=True) == "from the usual variable"
    assert capsys.readouterr().err == ""


def test_nobody_is_asked_unless_wanted() -> None:
    assert read_passcode(None, None, ask=False) is None


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_file_that_everybody_can_read_gives_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _private(tmp_path / "passcode", "from the file\n")
    file.chmod(0o644)
    assert read_passcode(file, None, ask=False) == "from the file"
    error = capsys.readouterr().err
    assert "everybody" in error
    assert "chmod 600" in error
    assert "from the file" not in error


@pytest.mark.parametrize(("value", "why"), [("", "no passcode"), ("\n", "no passcode"), ("a" * 4097, "4096 bytes")])
def test_a_useless_variable_is_refused(monkeypatch: pytest.MonkeyPatch, value: str, why: str) -> None:
    monkeypatch.setenv("MINE", value)
    with pytest.raises(UsageError, match=why):
        read_passcode(None, "MINE", ask=True)


def test_a_named_variable_has_to_be_there() -> None:
    with pytest.raises(UsageError, match="GENEDGE_NOT_THERE is not set"):
        read_passcode(None, "GENEDGE_NOT_THERE", ask=True)


@pytest.mark.parametrize(("text", "why"), [("\n", "no passcode"), ("a" * 5000, "4096 bytes")])
def test_a_useless_file_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        read_passcode(_private(tmp_path / "passcode", text), None, ask=True)


def _typing(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    prompts, rest = [], list(words)

    def typed(prompt: str = "") -> str:
        prompts.append(prompt)
        return rest.pop(0)

    monkeypatch.setattr(getpass, "getpass", typed)
    return prompts


def test_a_new_passcode_is_typed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = _typing(monkeypatch, "secret", "secret")
    assert read_passcode(None, None, ask=True) == "secret"
    assert len(prompts) == 2


def test_a_known_passcode_is_typed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = _typing(monkeypatch, "secret")
    assert read_passcode(None, None, ask=True, create=False) == "secret"
    assert len(prompts) == 1


def test_two_different_passcodes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _typing(monkeypatch, "secret", "secert")
    with pytest.raises(UsageError, match="differ") as caught:
        read_passcode(None, None, ask=True)
    assert "secret" not in str(caught.value)


def test_typing_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _typing(monkeypatch, "")
    with pytest.raises(UsageError, match="no passcode"):
        read_passcode(None, None, ask=True)


def test_without_a_terminal_the_other_ways_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A passcode that a pipe echoes onto the screen would not be secret: ``getpass`` warns, and we refuse."""

    def no_terminal(*_: object, **__: object) -> int:
        raise OSError("no terminal")

    monkeypatch.setattr(os, "open", no_terminal)
    monkeypatch.setattr("sys.stdin", io.StringIO("secret\nsecret\n"))
    with pytest.raises(GenedgeError, match="--passcode-file"):
        read_passcode(None, None, ask=True)
