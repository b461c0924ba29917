from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from checkpoint_factory import exported, frame, loaded
from torch import Tensor, nn

from export.build import check
from export.bundle import add_parity, draft_manifest, new_bundle_folder, write_files, write_manifest
from export.checkpoint import Checkpoint
from export.config import LIMITS
from export.frame_io import FrameGraph, frame_graph, reference_output
from export.generators.base import Condition, FurtherImage, LoadedGenerator, RecurrentState
from export.onnx_graph import graph_from_generator
from export.parity import Pair, measure, record
from runtime.bundle import Bundle, open_bundle
from runtime.codes import Code
from runtime.errors import ManifestError, UsageError
from runtime.manifest import MANIFEST_NAME, Port
from runtime.sessions import Choice, open_session, runnable

CHECKPOINT = Checkpoint({}, "ab" * 32)


def leave_manifest(folder: Path, text: str) -> None:
    (folder / MANIFEST_NAME).write_text(text)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "bundles" / "sr"


@pytest.fixture
def old(target: Path) -> Path:
    """A bundle that is there already."""
    target.mkdir(parents=True)
    leave_manifest(target, "old")
    (target / "engines").mkdir()
    return target


def around(target: Path) -> list[str]:
    """What lies beside the target, hidden files as well."""
    return sorted(path.name for path in target.parent.iterdir())


# --- the folder appears whole or not at all ---------------------------------------------------------------------------


def test_the_folder_appears_only_when_it_is_done(target: Path) -> None:
    with new_bundle_folder(target, force=False) as folder:
        assert folder.parent == target.parent  # a rename cannot cross file systems
        assert folder.name.startswith(".")
        leave_manifest(folder, "new")
        assert not target.exists()
    assert (target / MANIFEST_NAME).read_text() == "new"
    assert around(target) == ["sr"]


def test_others_may_read_it(target: Path) -> None:
    with new_bundle_folder(target, force=False) as folder:
        leave_manifest(folder, "new")
    assert stat.S_IMODE(target.stat().st_mode) == 0o755


def break_off(target: Path, error: BaseException, *, force: bool = False) -> None:
    """Fail with ``error`` when the new bundle is half done."""
    with new_bundle_folder(target, force=force) as folder:
        leave_manifest(folder, "half")
        (folder / "golden").mkdir()
        raise error


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_an_error_in_the_middle_leaves_nothing(error: BaseException, target: Path) -> None:
    with pytest.raises(type(error)):
        break_off(target, error)
    assert around(target) == []


def test_an_existing_bundle_is_not_replaced_without_force(old: Path) -> None:
    with pytest.raises(UsageError, match=r"sr exists: add --force to replace it"), new_bundle_folder(old, force=False):
        pytest.fail("the block must not run")
    assert (old / MANIFEST_NAME).read_text() == "old"
    assert around(old) == ["sr"]


def test_force_keeps_the_old_bundle_until_the_new_one_is_whole(old: Path) -> None:
    with new_bundle_folder(old, force=True) as folder:
        leave_manifest(folder, "new")
        assert (old / MANIFEST_NAME).read_text() == "old"
    assert (old / MANIFEST_NAME).read_text() == "new"
    assert not (old / "engines").exists()  # nothing of the old one is mixed in
    assert around(old) == ["sr"]


def test_force_keeps_the_old_bundle_when_the_new_one_fails(old: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        break_off(old, RuntimeError("broken"), force=True)
    assert (old / MANIFEST_NAME).read_text() == "old"
    assert around(old) == ["sr"]


@pytest.mark.parametrize("failing", [1, 2])
def test_force_keeps_the_old_bundle_when_a_rename_fails(
    failing: int, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, calls = Path.rename, 0

    def broken(path: Path, to: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.EIO, "the disk is tired")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(OSError, match="tired"), new_bundle_folder(old, force=True) as folder:
        leave_manifest(folder, "new")
    assert (old / MANIFEST_NAME).read_text() == "old"
    assert (old / "engines").is_dir()
    assert around(old) == ["sr"]


def test_force_replaces_no_folder_that_is_no_bundle(tmp_path: Path) -> None:
    """``--name Documents -o ~ --force`` must not delete anybody's documents."""
    documents = tmp_path / "Documents"
    documents.mkdir()
    (documents / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="Documents exists and is no bundle"), new_bundle_folder(documents, force=True):
        pytest.fail("the block must not run")
    assert (documents / "thesis.txt").exists()
    file = tmp_path / "file"
    file.write_text("as important")
    with pytest.raises(UsageError, match="file exists and is no bundle"), new_bundle_folder(file, force=True):
        pytest.fail("the block must not run")
    assert file.read_text() == "as important"


def test_everything_is_on_the_disk_before_it_counts(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[str] = set()
    fsync = os.fsync

    def remember(handle: int) -> None:
        assert not target.exists()
        synced.add(Path(f"/proc/self/fd/{handle}").resolve().name)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", remember)
    with new_bundle_folder(target, force=False) as folder:
        leave_manifest(folder, "new")
        (folder / "golden").mkdir()
        (folder / "golden" / "0.png").write_bytes(b"1")
        name = folder.name
    if Path("/proc/self/fd").exists():
        assert synced == {MANIFEST_NAME, "golden", "0.png", name}


def test_a_disk_that_is_full_when_it_is_synced_leaves_nothing(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), new_bundle_folder(target, force=False) as folder:
        leave_manifest(folder, "new")
    assert around(target) == []


# --- content ----------------------------------------------------------------------------------------------------------


def pairs(count: int) -> list[Pair]:
    """All of one size but the last."""
    generator = loaded("compact-x2")
    images = [frame(seed=index) for index in range(count - 1)] + [frame(19, 27)]
    return [Pair(image, reference_output(generator, image)) for image in images]


def write(
    folder: Path, shape: tuple[int, int] | None = None, given: Sequence[Pair] = (), **models: onnx.ModelProto
) -> Bundle:
    draft = draft_manifest("sr", loaded("compact-x2"), CHECKPOINT, "MIT", "nothing", 3, shape)
    models = {"fp32": exported("compact-x2", shape), **models}
    return write_files(folder, draft, models, given or pairs(6), {})


def test_written_bundle_can_be_opened_and_says_what_was_given(tmp_path: Path) -> None:
    write(tmp_path)
    manifest = open_bundle(tmp_path).manifest
    assert (manifest.name, manifest.task, manifest.generator) == ("sr", "super-resolution", "compact")
    assert (manifest.weights.sha256, manifest.weights.licence, manifest.weights.trained_on) == (
        "ab" * 32, "MIT", "nothing",
    )  # fmt: skip
    geometry = manifest.geometry
    assert (geometry.scale, geometry.halo, geometry.tileable, geometry.fixed_size) == (2, 3, True, None)
    assert [(port.name, port.role, port.dtype, port.shape) for port in (*manifest.inputs, *manifest.outputs)] == [
        ("frame", "frame", "uint8", ("n", "h", "w", 3)),
        ("image", "image", "uint8", ("n", "sh", "sw", 3)),
    ]
    assert dict(manifest.limits) == {"fp32": LIMITS["fp32"], "bf16": LIMITS["bf16"]}


def test_graph_of_one_size_has_ports_of_that_size(tmp_path: Path) -> None:
    write(tmp_path, (20, 28))
    manifest = open_bundle(tmp_path).manifest
    assert manifest.geometry.fixed_size == (20, 28)
    assert (manifest.inputs[0].shape, manifest.outputs[0].shape) == ((1, 20, 28, 3), (1, 40, 56, 3))


class Tinted(nn.Module):
    """Adds a colour for a class and a tenth of a map; values 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.Parameter(torch.linspace(-0.3, 0.3, 12).reshape(4, 3), requires_grad=False)

    def forward(self, image: Tensor, style: Tensor, shade: Tensor) -> Tensor:
        return image * 0.5 + (style @ self.colours)[:, :, None, None] + shade * 0.1


STYLE = Code("one-hot", 4, (0, 1, 0, 0), labels=("a", "b", "c", "d"))
SHADE = Code("vector", 1, (0.5,), -1, 1)
TINTED = LoadedGenerator(
    "tinted",
    Tinted().eval(),
    1,
    task="translation",
    conditions=(Condition("style", STYLE), Condition("shade", SHADE, is_map=True)),
)


@pytest.mark.parametrize("shape", [None, (20, 28)])
def test_conditions_become_code_ports_that_a_session_feeds(shape: tuple[int, int] | None, tmp_path: Path) -> None:
    """From a torch net to what a frame looks like with codes that somebody sets."""
    draft = draft_manifest("tinted", TINTED, CHECKPOINT, "MIT", "nothing", 1, shape)
    image = frame(20, 28)
    given = [Pair(image, reference_output(TINTED, image))]
    bundle = write_files(
        tmp_path, draft, {"fp32": graph_from_generator(FrameGraph(TINTED), TINTED.size_rule, shape)}, given, {}
    )
    n, h, w = ("n", "h", "w") if shape is None else (1, *shape)
    assert bundle.manifest.inputs[1:] == (
        Port("style", "code", "float32", (n, 4), code=STYLE),
        Port("shade", "code", "float32", (n, 1, h, w), code=SHADE),
    )
    assert check(str(tmp_path))  # the graph's ports are those of the manifest
    codes = {
        "style": np.array([0, 0, 0, 1], np.float32),
        "shade": np.random.default_rng(0).uniform(-1, 1, (1, 20, 28)).astype(np.float32),
    }
    for backend in ("onnxruntime", "openvino"):
        with open_session(bundle, Choice(backend, "fp32", "fp32", "asked for"), threads=1) as session:
            for said in ({}, codes):
                session.set_codes(said)
                wanted = reference_output(TINTED, image, said)
                assert np.abs(session.infer(image[None])[0].astype(int) - wanted).max() <= 1
    assert not np.array_equal(reference_output(TINTED, image, codes), given[0].reference)


def test_the_way_to_the_fixed_size_is_written_only_where_there_is_one() -> None:
    squeezed = replace(loaded("compact-x2"), fit="resize")
    for shape, fit in ((None, "pad"), ((20, 28), "resize")):
        manifest = draft_manifest("sr", squeezed, CHECKPOINT, "MIT", "nothing", 3, shape)
        assert manifest.geometry.fit == fit
    assert draft_manifest("sr", loaded("compact-x2"), CHECKPOINT, "MIT", "nothing", 3, (20, 28)).geometry.fit == "pad"


@pytest.mark.parametrize("shape", [None, (20, 28)])
def test_further_images_are_outputs_between_the_image_and_the_states(shape: tuple[int, int] | None) -> None:
    generator = replace(
        loaded("compact-x2"),
        images=(FurtherImage("mask"), FurtherImage("content", 3)),
        states=(RecurrentState("hidden", "next_hidden", 4),),
    )
    manifest = draft_manifest("sr", generator, CHECKPOINT, "MIT", "nothing", 0, shape)
    assert [(port.name, port.role) for port in manifest.outputs] == [
        ("image", "image"),
        ("mask", "image"),
        ("content", "image"),
        ("next_hidden", "state"),
    ]
    sizes = ("n", "sh", "sw", 3) if shape is None else (1, 40, 56, 3)
    assert {(port.dtype, port.shape) for port in manifest.images} == {("uint8", sizes)}


def test_a_bundle_with_two_images_runs_and_gives_either(tmp_path: Path) -> None:
    class WithGrey(nn.Module):
        """The net, and its green channel as a second picture of one channel."""

        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
            picture = self.net(frames)
            return picture, picture[:, 1:2]

    plain = loaded("compact-x2")
    two = replace(plain, net=WithGrey(plain.net).eval(), images=(FurtherImage("grey"),), fold=None)
    draft = draft_manifest("sr", two, CHECKPOINT, "MIT", "nothing", 3, None)
    model = graph_from_generator(frame_graph(two), two.size_rule, None)
    bundle = write_files(tmp_path, draft, {"fp32": model}, pairs(2), {})
    given = frame(9, 14)
    for choice in runnable(bundle):
        if choice.precision != "fp32":
            continue
        with open_session(bundle, choice) as one, open_session(bundle, choice, image="grey") as other:
            picture, grey = one.infer(given[None])[0].astype(int), other.infer(given[None])[0].astype(int)
        assert np.abs(picture - reference_output(plain, given)).max() <= 1
        assert np.abs(grey - picture[..., 1:2]).max() <= 1


def test_models_are_written_as_they_are(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    assert bundle.read_model("fp32") == exported("compact-x2").SerializeToString()


@pytest.mark.parametrize(("count", "kept"), [(1, 1), (3, 3), (4, 4), (10, 4)])
def test_golden_frames_are_lossless_and_include_the_odd_size(count: int, kept: int, tmp_path: Path) -> None:
    given = pairs(count)
    bundle = write(tmp_path, given=given)
    golden = list(bundle.golden_frames())
    assert len(golden) == kept
    remaining = iter(given)
    for image, output in golden:  # in their order
        match = next(pair for pair in remaining if np.array_equal(pair.frame, image))
        assert np.array_equal(match.reference, output)
    assert golden[-1][0].shape == (19, 27, 3)


def test_parity_goes_into_record_report_and_manifest(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    results = measure(bundle, pairs(3), lambda text: None)
    add_parity(bundle, results, record(results, bundle, {}), "<html>")
    again = open_bundle(tmp_path)
    recorded = again.parity_record()
    assert recorded is not None
    assert [entry["sha256"] for entry in recorded["results"]] == [again.manifest.artifacts["fp32"].sha256] * len(
        results
    )
    assert (tmp_path / "parity.html").read_text() == "<html>"
    assert {key: dict(figures) for key, figures in again.manifest.artifacts["fp32"].parity.items()} == {
        result.key: result.report.figures() for result in results
    }


@pytest.fixture
def disk_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A disk with room for so many files."""

    def room_for(files: int) -> None:
        write_bytes, left = Path.write_bytes, files

        def write_or_fail(path: Path, data: bytes) -> int:
            nonlocal left
            left -= 1
            if left < 0:
                write_bytes(path, data[: len(data) // 2])
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            return write_bytes(path, data)

        monkeypatch.setattr(Path, "write_bytes", write_or_fail)

    return room_for


@pytest.mark.parametrize("files", [0, 1, 4, 8])
def test_a_full_disk_leaves_no_bundle(files: int, target: Path, disk_of: Any) -> None:
    disk_of(files)
    with pytest.raises(OSError, match="No space left"), new_bundle_folder(target, force=False) as folder:
        write(folder)
    assert around(target) == []


def test_a_full_disk_keeps_the_old_bundle(old: Path, disk_of: Any) -> None:
    disk_of(2)
    with pytest.raises(OSError, match="No space left"), new_bundle_folder(old, force=True) as folder:
        write(folder)
    assert (old / MANIFEST_NAME).read_text() == "old"
    assert around(old) == ["sr"]


def test_manifest_that_the_runtime_would_refuse_is_not_written(tmp_path: Path) -> None:
    manifest = write(tmp_path).manifest
    before = (tmp_path / MANIFEST_NAME).read_text()
    for wrong in (
        replace(manifest, name="../sr"),
        replace(manifest, task="cooking"),
        replace(manifest, geometry=replace(manifest.geometry, halo=-1)),
        replace(manifest, artifacts={}),
    ):
        with pytest.raises(ManifestError):
            write_manifest(tmp_path, wrong)
    assert (tmp_path / MANIFEST_NAME).read_text() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
