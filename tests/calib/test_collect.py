"""The pass that measures: against numpy on all values of small nets that see real photos."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper
from small_graphs import FLOAT, FRAME, model_of, node, planes_of, random, run

from calib import collect as module
from calib.collect import Statistics, TensorRecord, collect, default_cache, digest_of, wanted_tensors, with_reductions
from calib.feeds import CodeRule, Feeds, StateRule
from calib.layers import layers_of
from runtime.codes import Code
from runtime.errors import GenedgeError, MissingExtraError
from runtime.frames import Frame


def conv_net() -> onnx.ModelProto:
    """Every kind of tensor: behind ReLU, behind another activation, strided, pooled to one pixel, and enlarged."""
    nodes = [
        *planes_of(),
        node("Conv", "planes w1 b1", "r1", pads=[1, 1, 1, 1]), node("LeakyRelu", "r1", "a1", alpha=0.1),
        node("Conv", "a1 w2", "r2", strides=[2, 2]), node("Relu", "r2", "a2"),
        node("GlobalAveragePool", "a2", "pooled"), node("Conv", "pooled w3", "r3"), node("Sigmoid", "r3", "a3"),
        node("Mul", "a2 a3", "weighed"), node("ConvTranspose", "weighed w4", "y", strides=[2, 2]),
    ]  # fmt: skip
    constants = {
        "w1": random(8, 3, 3, 3, reach=0.01), "b1": random(8, seed=1), "w2": random(6, 8, 3, 3, seed=2, reach=0.3),
        "w3": random(6, 6, 1, 1, seed=3), "w4": random(6, 3, 2, 2, seed=4),
    }  # fmt: skip
    return model_of(nodes, constants, FRAME)


NAMES = ("planes", "r1", "a1", "a2", "pooled", "r3", "a3", "weighed", "y")


def values_of(model: onnx.ModelProto, names: Sequence[str], **inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
    """All values of some tensors."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, FLOAT, [None] * 4) for name in names)
    return run(model, plain=True, **inputs)


def crops(photos: Sequence[Frame]) -> list[Frame]:
    sizes = [(48, 64), (97, 133), (64, 48), (300, 400)]
    return [photo[10 : 10 + h, 20 : 20 + w] for photo, (h, w) in zip(photos, sizes, strict=False)]


def assert_same(first: Statistics, second: Statistics) -> None:
    """To the last bit."""
    assert first.steps == second.steps
    assert list(first.tensors) == list(second.tensors)
    for name, record in first.tensors.items():
        other = second.tensors[name]
        for field in ("lowest", "highest", "mean", "weight"):
            np.testing.assert_array_equal(getattr(record, field), getattr(other, field), err_msg=name)
        for key, value in record.histogram.to_arrays().items():
            np.testing.assert_array_equal(value, other.histogram.to_arrays()[key], err_msg=name)


def test_what_is_measured() -> None:
    assert wanted_tensors(layers_of(conv_net())) == NAMES


def test_extremes_and_means_are_those_of_all_values(photos: Sequence[Frame]) -> None:
    model, frames = conv_net(), crops(photos)
    statistics = collect(model, Feeds(frames, "photos"), threads=1)
    assert statistics.steps == len(frames)
    measured = [values_of(model, NAMES, frame=np.ascontiguousarray(frame)[None]) for frame in frames]
    for place, name in enumerate(NAMES):
        record = statistics.tensors[name]
        every = [np.moveaxis(values[place], 1, 0).reshape(values[place].shape[1], -1) for values in measured]
        together = np.concatenate(every, axis=1).astype(np.float64)
        reach = np.abs(together).max()
        np.testing.assert_allclose(record.lowest, together.min(axis=1), atol=1e-5 * reach)
        np.testing.assert_allclose(record.highest, together.max(axis=1), atol=1e-5 * reach)
        np.testing.assert_allclose(record.mean, together.mean(axis=1), atol=1e-5 * reach)
        assert record.weight == together.shape[1]
        assert record.histogram.low == record.lowest.min()
        assert record.histogram.high == record.highest.max()
        assert record.histogram.counts.sum() == together.size, "no tensor is larger than the sample"


def test_samples_cover_every_pixel_once(photos: Sequence[Frame], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampled in every n-th row and column, n times n steps see what one step sees of the whole."""
    monkeypatch.setattr(module, "SAMPLE", 1000)
    model, photo = conv_net(), photos[1][:47, :61]
    frame = np.ascontiguousarray(photo)[None]
    for name, values in zip(NAMES, values_of(model, NAMES, frame=frame), strict=True):
        every = min(8, max(1, int((values.size / 1000) ** 0.5)))
        assert (every > 1) == (name not in ("pooled", "r3", "a3")), "small tensors are counted whole"
        sampled = with_reductions(model, [name])
        parts = []
        for step in range(every**2):
            results = run(sampled, frame=frame, **{"calib.step": np.array([step])})
            parts.append(results[4].ravel())
            assert 0.8 * values.size / every**2 <= parts[-1].size <= 1.3 * values.size / every**2 + 8
        np.testing.assert_allclose(np.sort(np.concatenate(parts)), np.sort(values.ravel()), rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 500))
def test_samples_cover_images_of_any_size(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, sample: int
) -> None:
    monkeypatch.setattr(module, "SAMPLE", sample)
    model = model_of([*planes_of(), node("Conv", "planes w", "y")], {"w": random(1, 3, 1, 1)}, FRAME)
    sampled = with_reductions(model, ["planes"])
    frame = np.arange(height * width * 3, dtype=np.uint8).reshape(1, height, width, 3)
    sides = [min(side, max(1, min(8, int((frame.size / sample) ** 0.5)))) for side in (height, width)]
    parts = [run(sampled, frame=frame, **{"calib.step": np.array([step])})[4] for step in range(sides[0] * sides[1])]
    assert all(part.size >= min(frame.size, sample) * 0.5 for part in parts[:1])
    np.testing.assert_array_equal(np.sort(np.concatenate([part.ravel() for part in parts])), np.sort(frame.ravel()))


def test_means_weigh_frames_by_their_pixels() -> None:
    record = TensorRecord()
    for value, pixels in ((1.0, 10), (4.0, 30), (0.0, 60)):
        one = np.array([value], dtype=np.float32)
        record.add(one, one, one, one, pixels)
    assert record.mean is not None
    assert record.mean[0] == pytest.approx(1.3)


def test_progress_says_how_far_it_is(photos: Sequence[Frame]) -> None:
    said: list[str] = []
    collect(conv_net(), Feeds(crops(photos)[:2], "photos"), progress=said.append)
    assert said[0].startswith("calibrating, frame 1 of 2, ")
    assert said[1] == "calibrating, frame 2 of 2, done"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that went through the engine."""
    steps: list[int] = []
    original = module._Engine.run

    def counted(self: Any, inputs: dict[str, Any], step: int) -> Any:
        steps.append(step)
        return original(self, inputs, step)

    monkeypatch.setattr(module._Engine, "run", counted)
    return steps


def test_finished_pass_is_read_again(photos: Sequence[Frame], tmp_path: Path, runs: list[int]) -> None:
    feeds, said = Feeds(crops(photos), "photos"), []
    first = collect(conv_net(), feeds, cache=tmp_path / "new" / "folder")
    assert runs == [0, 1, 2, 3]
    again = collect(conv_net(), feeds, cache=tmp_path / "new" / "folder", progress=said.append)
    assert runs == [0, 1, 2, 3]
    assert said == ["ranges of 4 frames were measured before"]
    assert_same(first, again)
    assert_same(first, collect(conv_net(), feeds))


def test_another_graph_or_other_inputs_are_measured_anew(
    photos: Sequence[Frame], tmp_path: Path, runs: list[int]
) -> None:
    model, feeds = conv_net(), Feeds(crops(photos)[:1], "photos")
    collect(model, feeds, cache=tmp_path)
    other = conv_net()
    other.graph.initializer[1].raw_data = random(8, seed=9).tobytes()
    collect(other, feeds, cache=tmp_path)
    collect(model, replace(feeds, digest="others"), cache=tmp_path)
    collect(model, replace(feeds, runs=((0, 0),)), cache=tmp_path)
    assert runs == [0, 0, 0, 0, 1]
    assert len(list(tmp_path.iterdir())) == 4


class Broken(Sequence[Frame]):
    """Frames that cannot be read from some number on."""

    def __init__(self, frames: Sequence[Frame], good: int) -> None:
        self.frames, self.good = frames, good

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: Any) -> Any:
        if index >= self.good:
            raise OSError("unplugged")
        return self.frames[index]


def test_interrupted_pass_goes_on_where_it_was_saved(
    photos: Sequence[Frame], tmp_path: Path, runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(module, "SAMPLE", 2000)  # the steps sample different pixels
    frames, said = crops(photos), []
    whole = collect(conv_net(), Feeds(frames, "photos"))
    runs.clear()
    for good in (2, 3):
        with pytest.raises(OSError, match="unplugged"):
            collect(conv_net(), Feeds(Broken(frames, good), "photos"), cache=tmp_path)
    result = collect(conv_net(), Feeds(frames, "photos"), cache=tmp_path, progress=said.append)
    assert runs == [0, 1, 2, 3]
    assert said[0] == "going on after frame 3 of 4"
    assert_same(result, whole)


def test_pass_is_saved_between_runs_only(
    photos: Sequence[Frame], tmp_path: Path, runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY", 0.0)
    frames = [photo[:32, :40] for photo in photos]
    feeds = Feeds(frames, "photos", runs=((0, 1), (2, 3)))
    with pytest.raises(OSError, match="unplugged"):
        collect(conv_net(), replace(feeds, frames=Broken(frames, 3)), cache=tmp_path)
    collect(conv_net(), feeds, cache=tmp_path)
    assert runs == [0, 1, 2, 2, 3]


def test_nothing_is_saved_too_often(photos: Sequence[Frame], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="unplugged"):
        collect(conv_net(), Feeds(Broken(crops(photos), 2), "photos"), cache=tmp_path)
    assert not list(tmp_path.iterdir())


def damages(content: bytes) -> Iterator[bytes]:
    yield b""
    yield b"no zip file"
    yield content[: len(content) // 2]
    for place in range(60, len(content), len(content) // 50):
        yield content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]


def test_damaged_file_is_measured_again(photos: Sequence[Frame], tmp_path: Path) -> None:
    model = model_of([*planes_of(), node("Conv", "planes w", "y")], {"w": random(2, 3, 3, 3)}, FRAME)
    feeds = Feeds([photos[0][:16, :16]], "photos")
    whole = collect(model, feeds, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    refused = 0
    for damaged in damages(content):
        path.write_bytes(damaged)
        refused += Statistics.load(path, path.stem) is None
        assert_same(collect(model, feeds, cache=tmp_path), whole)
    assert refused > 25


def test_file_of_something_else_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    assert Statistics.load(path, "key") is None
    Statistics({"x": TensorRecord()}, 3).save(path, "key")
    assert Statistics.load(path, "another key") is None
    read = Statistics.load(path, "key")
    assert read is not None
    assert (list(read.tensors), read.steps, read.tensors["x"].lowest) == (["x"], 3, None)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    assert Statistics.load(path, "key") is None
    with path.open("wb") as file:
        np.savez(file, key=np.array("key"), steps=np.zeros(3))
    assert Statistics.load(path, "key") is None


def test_failed_save_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("disk is full")

    path = tmp_path / "file.npz"
    Statistics({}, 1).save(path, "key")
    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="disk is full"):
        Statistics({}, 2).save(path, "key")
    assert [each.name for each in tmp_path.iterdir()] == ["file.npz"]
    read = Statistics.load(path, "key")
    assert read is not None
    assert read.steps == 1


@pytest.mark.parametrize("weight", [np.nan, np.inf])
@pytest.mark.parametrize("activation", ["Neg", "Relu", "Sigmoid"])
def test_layer_that_makes_no_numbers_is_named(photos: Sequence[Frame], weight: float, activation: str) -> None:
    """Of infinity a sigmoid makes one, so the sum before it is looked at."""
    nodes = [
        *planes_of(),
        node("Conv", "planes w1", "first"),
        node(activation, "first", "a"),
        node("Conv", "a w2", "y"),
    ]
    bad = random(2, 3, 1, 1)
    bad[1, 0] = weight
    model = model_of(nodes, {"w1": bad, "w2": random(2, 2, 1, 1)}, FRAME)
    with pytest.raises(GenedgeError, match="first makes values that are not finite"):
        collect(model, Feeds([photos[0][:16, :16]], "photos"))


def test_layer_that_reads_no_numbers_is_named(photos: Sequence[Frame]) -> None:
    nodes = [*planes_of(), node("Sub", "planes big", "n"), node("Sqrt", "n", "root"), node("Conv", "root w", "y")]
    model = model_of(nodes, {"big": np.float32(300), "w": random(2, 3, 1, 1)}, FRAME)
    with pytest.raises(GenedgeError, match="y reads values that are not finite"):
        collect(model, Feeds([photos[0][:16, :16]], "photos"))


def test_graph_without_a_layer(photos: Sequence[Frame]) -> None:
    model = model_of([*planes_of(), node("Neg", "planes", "y")], {}, FRAME)
    with pytest.raises(GenedgeError, match="no convolution with constant weights"):
        collect(model, Feeds(photos, "photos"))


def test_no_frames(tmp_path: Path) -> None:
    with pytest.raises(GenedgeError, match="no frame to calibrate with"):
        collect(conv_net(), Feeds([], "nothing"), cache=tmp_path)


def test_tensor_of_unknown_shape() -> None:
    nodes = [
        *planes_of(),
        node("Reshape", "planes size", "x"),
        node("Conv", "x w", "c"),
        node("Reshape", "c flat", "y"),
    ]
    inputs = FRAME | {"size": (onnx.TensorProto.INT64, ("n",))}
    model = model_of(nodes, {"w": random(2, 3, 1, 1), "flat": np.array([1, -1])}, inputs)
    with pytest.raises(GenedgeError, match="the shape of x is not known"):
        with_reductions(model, ["x"])


def test_missing_onnxruntime_names_the_extra(photos: Sequence[Frame], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match="cpu"):
        collect(conv_net(), Feeds(crops(photos), "photos"))


def counting() -> onnx.ModelProto:
    """``hidden_out = hidden + 1``, and layers that read the state, the frame before and the code."""
    before = [node("Cast", "before", "float", to=FLOAT), node("Transpose", "float", "past", perm=[0, 3, 1, 2])]
    nodes = [
        *planes_of(), *before,
        node("Add", "hidden one", "hidden_out"), node("Conv", "hidden w1", "seen"), node("Conv", "past w3", "old"),
        node("Gemm", "code wc", "mood"), node("ReduceMean", "mood", "tone"),
        node("Conv", "planes w3", "y0"), node("Add", "y0 old", "y1"), node("Add", "y1 seen", "y2"),
        node("Add", "y2 tone", "y"),
    ]  # fmt: skip
    constants = {
        "one": np.float32(1), "w1": np.ones((1, 1, 1, 1), np.float32), "w3": random(1, 3, 1, 1),
        "wc": np.eye(4, dtype=np.float32) * np.float32([1, 2, 3, 4]),
    }  # fmt: skip
    inputs = FRAME | {
        "before": FRAME["frame"], "hidden": (FLOAT, (1, 1, "h", "w")), "code": (FLOAT, (1, 4)),
    }  # fmt: skip
    return model_of(nodes, constants, inputs, ["y", "hidden_out"])


STATES = (StateRule("hidden", "hidden_out", channels=1), StateRule("before", "frame", initial="frame"))


@pytest.mark.parametrize(("states_of", "highest"), [(((0, 1, 2, 3),), 3), (((0, 1), (2, 3)), 1), ((), 0)])
def test_states_go_through_a_run(
    photos: Sequence[Frame], states_of: tuple[tuple[int, ...], ...], highest: float
) -> None:
    frames = [photo[:16, :20] for photo in photos]
    feeds = Feeds(
        frames, "photos", runs=states_of, states=STATES, codes=(CodeRule("code", Code("bits", 4, (-1,) * 4, -1, 1)),)
    )
    statistics = collect(counting(), feeds)
    seen = statistics.tensors["hidden"]
    assert seen.highest is not None
    assert (seen.highest[0], seen.histogram.low) == (highest, 0)
    assert statistics.tensors["seen"].histogram.high == highest
    runs_of = states_of or tuple((index,) for index in range(4))
    shown = np.concatenate([frames[run_[max(0, place - 1)]] for run_ in runs_of for place in range(len(run_))])
    np.testing.assert_allclose(statistics.tensors["past"].mean, shown.reshape(-1, 3).mean(axis=0), rtol=1e-5)


def test_every_code_is_measured(photos: Sequence[Frame]) -> None:
    """Both signs of every bit, and each with the factor that the layer gives it."""
    frames = [photos[0][:8, :8]] * 24
    feeds = Feeds(frames, "photos", states=STATES, codes=(CodeRule("code", Code("bits", 4, (-1,) * 4, -1, 1)),))
    statistics = collect(counting(), feeds)
    np.testing.assert_array_equal(statistics.tensors["mood"].highest, [1, 2, 3, 4])
    np.testing.assert_array_equal(statistics.tensors["mood"].lowest, [-1, -2, -3, -4])
    assert statistics.tensors["code"].histogram.counts.sum() == 24 * 4


def test_only_asked_for_outputs_are_left() -> None:
    model = with_reductions(counting(), ["y0"], kept=["hidden_out"])
    kinds = ("low", "high", "mean", "size", "sample")
    assert [port.name for port in model.graph.output] == ["hidden_out", *[f"y0:{kind}" for kind in kinds]]
    onnx.checker.check_model(model, full_check=True)


def test_reductions_stand_behind_their_tensor() -> None:
    """So that a tensor can be freed before the next one is made."""
    nodes = [made.output[0] for made in with_reductions(conv_net(), NAMES).graph.node]
    assert nodes[nodes.index("r1") + 1] == "r1:low"
    assert nodes.index("a1") == nodes.index("r1:sample") + 1


def test_digest_is_that_of_the_content() -> None:
    model = conv_net()
    assert digest_of(model) == digest_of(onnx.ModelProto.FromString(model.SerializeToString()))
    model.graph.node[0].name = "other"
    assert digest_of(model) != digest_of(conv_net())


def test_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GENEDGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert default_cache() == tmp_path / ".cache" / "genedge" / "calib"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "genedge" / "calib"
    monkeypatch.setenv("GENEDGE_CACHE", str(tmp_path / "own"))
    assert default_cache() == tmp_path / "own" / "calib"


LARGE = """
import sys
import cv2, numpy as np
sys.path[:0] = sys.argv[1:]
from skimage import data
from small_graphs import FRAME, model_of, node, planes_of, random
from calib.collect import collect
from calib.feeds import Feeds
from runtime.stats import peak_rss_bytes

photo = cv2.resize(data.astronaut()[..., ::-1], (1280, 720))
nodes, constants, last = planes_of(), {}, "planes"
for place in range(4):
    constants[f"w{place}"] = random(64, 3 if place == 0 else 64, 1, 1, seed=place, reach=0.1)
    nodes += [node("Conv", f"{last} w{place}", f"r{place}"), node("LeakyRelu", f"r{place}", f"a{place}", alpha=0.1)]
    last = f"a{place}"
nodes.append(node("GlobalAveragePool", last, "y"))
for count in (3, 8):
    frames = [np.roll(photo, 40 * index, axis=1) for index in range(count)]
    collect(model_of(nodes, constants, FRAME), Feeds(frames, "photo"), threads=2)
    print(peak_rss_bytes())
"""


def test_memory_does_not_grow_with_the_frames() -> None:
    """64 channels of a 720p frame are 236 MB. Peak memory of a process that measures 3 such frames, and then 8."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", LARGE, str(root), str(root / "tests")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    few, many = map(int, printed.split())
    assert few < 1.5e9
    assert many < 1.15 * few
