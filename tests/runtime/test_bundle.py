"""Opening bundles, and what happens with files that are damaged, missing, or not what they claim to be."""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle_factory import (
    add_file,
    png,
    random_frames,
    sha256,
    small_manifest,
    upscale,
    upscale_model,
    write_manifest,
    write_small_bundle,
)
from onnx import TensorProto, helper

from runtime.bundle import Bundle, open_bundle
from runtime.errors import GenedgeError, ManifestError
from runtime.manifest import Artifact, FileRef, Golden

pytestmark = pytest.mark.timeout(60)  # reading from a pipe would wait for ever


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small_bundle(tmp_path / "bundles" / "tiny-x2")


# --- finding ----------------------------------------------------------------------------------------------------------


def test_a_bundle_opens_by_its_folder(folder: Path) -> None:
    bundle = open_bundle(folder)
    assert bundle.folder == folder
    assert bundle.manifest.name == "tiny-x2"
    assert open_bundle(str(folder)) == bundle


def test_a_name_is_looked_up_in_the_bundles_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    assert open_bundle("tiny-x2").folder == Path("bundles/tiny-x2")


def test_a_name_is_looked_up_in_the_folders_of_the_environment(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("GENEDGE_BUNDLES", os.pathsep.join(["/nowhere", "", str(folder.parent)]))
    assert open_bundle("tiny-x2").folder == folder


def test_the_nearer_bundle_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the folder as given, then ./bundles, then the environment."""
    far = write_small_bundle(tmp_path / "far" / "net", name="far")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENEDGE_BUNDLES", str(far.parent))
    assert open_bundle("net").manifest.name == "far"
    write_small_bundle(tmp_path / "bundles" / "net", name="middle")
    assert open_bundle("net").manifest.name == "middle"
    write_small_bundle(tmp_path / "net", name="near")
    assert open_bundle("net").manifest.name == "near"


def test_a_path_is_not_looked_up_elsewhere(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENEDGE_BUNDLES", str(folder.parent.parent))
    with pytest.raises(GenedgeError, match="no bundle other/tiny-x2"):
        open_bundle("other/tiny-x2")


def test_an_unknown_name_says_where_it_was_looked_for_and_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENEDGE_BUNDLES", "/srv/bundles")
    with pytest.raises(GenedgeError) as caught:
        open_bundle("missing")
    message = str(caught.value)
    assert "bundles/missing" in message
    assert "/srv/bundles/missing" in message
    assert "python -m export build" in message


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    """For instance the temporary folder of a build that was broken off: the manifest is written last."""
    with pytest.raises(GenedgeError, match=r"holds no manifest\.json"):
        open_bundle(tmp_path)


# --- the manifest file ------------------------------------------------------------------------------------------------


def test_a_broken_manifest_is_named_with_its_path(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ManifestError, match=r"tiny-x2/manifest\.json: manifest: not valid JSON"):
        open_bundle(folder)


def test_a_manifest_of_a_gigabyte_is_not_read(folder: Path) -> None:
    with (folder / "manifest.json").open("r+b") as file:
        file.truncate(1 << 30)  # sparse: takes no room on the disk
    with pytest.raises(ManifestError, match="more than 1048576 bytes"):
        open_bundle(folder)


def test_a_pipe_in_place_of_the_manifest_does_not_block(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    with pytest.raises(GenedgeError, match=r"holds no manifest\.json"):
        open_bundle(folder)


# --- files and their digests ------------------------------------------------------------------------------------------


def test_files_are_read_when_their_digest_is_right(folder: Path) -> None:
    bundle = open_bundle(folder)
    assert bundle.read_model("fp32") == (folder / "model.fp32.onnx").read_bytes()
    reference = bundle.manifest.golden[0].input
    assert bundle.read(reference) == (folder / reference.file).read_bytes()


def test_one_changed_bit_is_noticed(folder: Path) -> None:
    model = bytearray((folder / "model.fp32.onnx").read_bytes())
    model[len(model) // 2] ^= 1
    (folder / "model.fp32.onnx").write_bytes(model)
    with pytest.raises(ManifestError) as caught:
        open_bundle(folder).read_model("fp32")
    message = str(caught.value)
    assert sha256(bytes(model))[:12] in message
    assert "changed or damaged" in message
    assert "build the bundle again" in message


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "model.fp32.onnx").unlink()
    with pytest.raises(ManifestError, match=r"model\.fp32\.onnx: the manifest names this file, but it is missing"):
        open_bundle(folder).read_model("fp32")


def test_a_file_behind_a_link_out_of_the_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    """Even with the right digest: which files are read is not for the bundle to decide."""
    outside = tmp_path / "model.onnx"
    (folder / "model.fp32.onnx").rename(outside)
    (folder / "model.fp32.onnx").symlink_to(outside)
    with pytest.raises(ManifestError, match="leads out of the bundle"):
        open_bundle(folder).read_model("fp32")


def test_what_is_no_regular_file_is_refused(folder: Path) -> None:
    bundle = open_bundle(folder)
    digest = sha256(b"")
    with pytest.raises(ManifestError, match="golden: not a file"):
        bundle.read(FileRef("golden", digest))
    os.mkfifo(folder / "pipe")
    with pytest.raises(ManifestError, match="pipe: not a file"):
        bundle.read(FileRef("pipe", digest))
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("one")
    with pytest.raises(ManifestError):
        bundle.read(FileRef("one", digest))
    with pytest.raises(ManifestError, match="Not a directory"):
        bundle.read(FileRef("model.fp32.onnx/inside", digest))
    with pytest.raises(ManifestError, match="File name too long"):
        bundle.read(FileRef("/".join(["part"] * 1_000), digest))


def test_a_file_larger_than_any_onnx_file_is_not_read(folder: Path) -> None:
    with (folder / "model.fp32.onnx").open("r+b") as file:
        file.truncate(1 << 40)  # a terabyte, sparse
    with pytest.raises(ManifestError, match="more than 2147483648 bytes"):
        open_bundle(folder).read_model("fp32")


def test_a_variant_that_the_bundle_lacks(folder: Path) -> None:
    with pytest.raises(GenedgeError, match="tiny-x2 has no int8 variant, only fp32"):
        open_bundle(folder).read_model("int8")


def test_a_model_with_external_data_is_refused_although_its_digest_is_right(tmp_path: Path) -> None:
    model = onnx.load_from_string(upscale_model())
    weight = model.graph.initializer.add(name="weight", data_type=TensorProto.FLOAT, dims=[1])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../../etc/passwd")
    bundle = open_bundle(write_small_bundle(tmp_path / "net", models={"fp32": model.SerializeToString()}))
    with pytest.raises(ManifestError, match=r"model\.fp32\.onnx: keeps tensors in another file"):
        bundle.read_model("fp32")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    bundle = open_bundle(write_small_bundle(tmp_path / "net", models={"fp32": b"<html>not found</html>"}))
    with pytest.raises(ManifestError, match=r"model\.fp32\.onnx: not an ONNX model"):
        bundle.read_model("fp32")


def test_subgraphs_and_constants_without_external_data_are_fine(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.FLOAT, [1], [1.0]))
    model = onnx.load_from_string(upscale_model())
    model.graph.node.insert(0, constant)
    data = model.SerializeToString()
    assert open_bundle(write_small_bundle(tmp_path / "net", models={"fp32": data})).read_model("fp32") == data


# --- golden frames ----------------------------------------------------------------------------------------------------


def with_golden(folder: Path, frame: bytes, output: bytes) -> Bundle:
    """A bundle whose only golden pair consists of the given files, digests right."""
    write_small_bundle(folder)
    pair = Golden(add_file(folder, "golden/in.png", frame), add_file(folder, "golden/out.png", output))
    model = FileRef("model.fp32.onnx", sha256((folder / "model.fp32.onnx").read_bytes()))
    write_manifest(folder, small_manifest({"fp32": Artifact(model.file, model.sha256)}, golden=[pair]))
    return open_bundle(folder)


def huge_png(width: int, height: int) -> bytes:
    """A file of a hundred bytes that claims to hold a picture of any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_golden_frames_come_as_pairs_of_frame_and_right_answer(folder: Path) -> None:
    pairs = list(open_bundle(folder).golden_frames())
    assert len(pairs) == 2
    for index, (frame, output) in enumerate(pairs):
        assert frame.dtype == output.dtype == np.uint8
        np.testing.assert_array_equal(frame, random_frames(8, 12, 3, seed=index))
        np.testing.assert_array_equal(output, upscale(frame[None])[0])


def test_a_grey_picture_becomes_a_frame_of_three_channels(tmp_path: Path) -> None:
    grey = random_frames(4, 6)
    [(frame, output)] = with_golden(tmp_path, png(grey), png(np.kron(grey, np.ones((2, 2), np.uint8)))).golden_frames()
    assert frame.shape == (4, 6, 3)
    assert output.shape == (8, 12, 3)
    assert (frame[..., 0] == grey).all()


@pytest.mark.parametrize(
    "data",
    [b"", b"not a picture", png(random_frames(4, 6, 3))[:40], huge_png(60_000, 60_000), huge_png(1 << 31, 1)],
    ids=["empty", "text", "cut off", "3.6 gigapixels", "wider than PNG allows"],
)
def test_a_golden_file_that_is_no_picture(tmp_path: Path, data: bytes) -> None:
    bundle = with_golden(tmp_path, data, png(random_frames(8, 12, 3)))
    with pytest.raises(ManifestError, match=r"golden/in\.png: not a picture"):
        list(bundle.golden_frames())


def test_golden_pairs_whose_sizes_do_not_fit(tmp_path: Path) -> None:
    """Found when reading, with the file's name, and not as a mismatch of arrays somewhere in a metric."""
    bundle = with_golden(tmp_path, png(random_frames(4, 6, 3)), png(random_frames(8, 13, 3)))
    with pytest.raises(ManifestError, match=r"golden/out\.png: its size is not 2 times the input's"):
        list(bundle.golden_frames())


def test_a_golden_frame_that_was_edited_is_noticed(folder: Path) -> None:
    (folder / "golden/1.output.png").write_bytes(png(random_frames(16, 24, 3, seed=9)))
    with pytest.raises(ManifestError, match=r"golden/1\.output\.png: sha256 is"):
        list(open_bundle(folder).golden_frames())


# --- parity.json ------------------------------------------------------------------------------------------------------


def test_the_parity_record_is_read(folder: Path) -> None:
    record = open_bundle(folder).parity_record()
    assert record is not None
    assert record["results"][0]["variant"] == "fp32"


def test_a_bundle_without_parity_record(folder: Path) -> None:
    (folder / "parity.json").unlink()
    assert open_bundle(folder).parity_record() is None


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe{", "not valid JSON"),
        (b'{"results": ' + b"[" * 100_000, "not valid JSON"),
        (b"[]", "must be an object"),
    ],
    ids=["cut off", "not UTF-8", "nested deeply", "a list"],
)
def test_a_broken_parity_record(folder: Path, content: bytes, complaint: str) -> None:
    (folder / "parity.json").write_bytes(content)
    with pytest.raises(ManifestError, match=f"parity.json: {complaint}"):
        open_bundle(folder).parity_record()


def test_a_parity_record_elsewhere_is_not_read(folder: Path, tmp_path: Path) -> None:
    (folder / "parity.json").unlink()
    (folder / "parity.json").mkdir()
    with pytest.raises(ManifestError, match=r"parity\.json: not a file"):
        open_bundle(folder).parity_record()
    (folder / "parity.json").rmdir()
    (tmp_path / "outside.json").write_text(json.dumps({"results": []}))
    (folder / "parity.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(ManifestError, match="leads out of the bundle"):
        open_bundle(folder).parity_record()


def test_the_manifest_in_memory_is_what_counts(folder: Path) -> None:
    """A bundle is a value: its manifest cannot change under the reader."""
    bundle = open_bundle(folder)
    write_manifest(folder, replace(bundle.manifest, name="other"))
    assert bundle.manifest.name == "tiny-x2"
    with pytest.raises(AttributeError):
        bundle.manifest.name = "other"  # type: ignore[misc]
