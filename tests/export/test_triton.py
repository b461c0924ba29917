"""Model repositories for Triton: what its messages say, and the graph, run as the server would run it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from bundle_factory import (
    CODES,
    STATES,
    add_file,
    add_negative,
    conditional_model,
    conditional_run,
    random_frames,
    recurrent,
    recurrent_model,
    small_manifest,
    upscale,
    upscale_model,
    write_conditional_bundle,
    write_manifest,
    write_recurrent_bundle,
    write_small_bundle,
)
from triton_messages import model_config

from export.triton import TritonConfig, write_triton
from runtime.bundle import Bundle, open_bundle
from runtime.errors import UsageError
from runtime.frames import SizeRule
from runtime.manifest import Artifact


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(write_small_bundle(tmp_path / "bundle"))


def written(bundle: Bundle, folder: Path, **settings: Any) -> tuple[str, Path]:
    """The text of the configuration, and the model's file."""
    place = write_triton(bundle, TritonConfig(folder, **settings))
    assert place == folder / bundle.manifest.name
    (model,) = (place / "1").iterdir()
    return (place / "config.pbtxt").read_text(), model


def session_of(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def served_in_turn(text: str, model: Path, streams: Sequence[Any], codes: dict[str, Any] | None = None) -> list[Any]:
    """What a server gives for streams of ``uint8 (T, H, W, 3)``, a frame of each in turn.

    A state begins with one element for each free dimension, and nobody knows what is in it; afterwards it is what the
    step before left. One stream's first step comes while others are under way.
    """
    session = session_of(model)
    pairs = re.findall(r'input_name: "(.*)"\n\s*output_name: "(.*)"', text)
    shapes = {port.name: port.shape for port in session.get_inputs()}
    types = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(int64)": np.int64}
    kinds = {port.name: types[port.type] for port in session.get_inputs() if port.type in types}
    kept = [
        {name: np.full([n if isinstance(n, int) else 1 for n in shapes[name]], 77, kinds[name]) for name, _ in pairs}
        for _ in streams
    ]
    begun = [False] * len(streams)
    images: list[list[Any]] = [[] for _ in streams]
    for step in range(max(map(len, streams)) + len(streams)):
        for index, frames in enumerate(streams):
            if not 0 <= step - index < len(frames):
                continue
            start = np.full([n if isinstance(n, int) else 1 for n in shapes["START"]], not begun[index])
            fed = {"frame": frames[step - index][None], "START": start, **kept[index], **(codes or {})}
            image, *left = session.run(["image", *(output for _, output in pairs)], fed)
            kept[index] = {name: value for (name, _), value in zip(pairs, left, strict=True)}
            images[index].append(image[0])
            begun[index] = True
    return [np.stack(each) for each in images]


# --- generators without a state ---------------------------------------------------------------------------------------


def test_uint8_frames_in_and_out_without_the_batch(bundle: Bundle, tmp_path: Path) -> None:
    text, model = written(bundle, tmp_path / "models")
    assert model.name == "model.onnx"
    assert model.read_bytes() == bundle.read_model("fp32")
    config = model_config(text)
    assert (config.name, config.backend, config.platform) == ("tiny-x2", "onnxruntime", "")
    assert config.default_model_filename == model.name
    assert config.max_batch_size == 8
    uint8 = 2
    assert [(port.name, port.data_type, list(port.dims)) for port in config.input] == [("frame", uint8, [-1, -1, 3])]
    assert [(port.name, port.data_type, list(port.dims)) for port in config.output] == [("image", uint8, [-1, -1, 3])]
    assert not config.input[0].optional
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    assert not config.HasField("sequence_batching")
    gpu = 1
    assert [(group.kind, group.count) for group in config.instance_group] == [(gpu, 1)]


def test_the_warm_up_has_the_golden_frames_size_alone_and_in_a_full_batch(bundle: Bundle, tmp_path: Path) -> None:
    config = model_config(written(bundle, tmp_path / "models", batch=5)[0])
    assert [warm.batch_size for warm in config.model_warmup] == [1, 5]
    for warm in config.model_warmup:
        assert {name: list(entry.dims) for name, entry in warm.inputs.items()} == {"frame": [8, 12, 3]}
        assert warm.inputs["frame"].zero_data
    assert list(config.dynamic_batching.preferred_batch_size) == [3, 5]
    bare = open_bundle(write_small_bundle(tmp_path / "bare", golden_frames=0))
    assert not model_config(written(bare, tmp_path / "more")[0]).model_warmup


def test_a_batch_of_one_waits_for_nobody(bundle: Bundle, tmp_path: Path) -> None:
    config = model_config(written(bundle, tmp_path / "models", batch=1)[0])
    assert config.max_batch_size == 1
    assert not config.HasField("dynamic_batching")
    assert [warm.batch_size for warm in config.model_warmup] == [1]


def test_the_fp16_variant_is_preferred_and_tensorrt_told_so(tmp_path: Path) -> None:
    models = {"fp32": upscale_model(), "fp16": upscale_model(brightness=1)}
    text, model = written(open_bundle(write_small_bundle(tmp_path / "b", models=models)), tmp_path / "models")
    assert model.read_bytes() == models["fp16"]
    (accelerator,) = model_config(text).optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert accelerator.parameters["precision_mode"] == "FP16"
    assert accelerator.parameters["trt_engine_cache_enable"] == "1"
    assert accelerator.parameters["trt_engine_cache_path"] == "/tmp/tiny-x2-engines"


def test_a_float32_graph_is_not_computed_in_half(bundle: Bundle, tmp_path: Path) -> None:
    config = model_config(written(bundle, tmp_path / "models")[0])
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert "precision_mode" not in accelerator.parameters


def test_a_bundle_of_int8_alone_is_refused(tmp_path: Path) -> None:
    bundle = open_bundle(write_small_bundle(tmp_path / "b", models={"int8": upscale_model()}))
    with pytest.raises(UsageError, match="neither an fp16 nor an fp32 variant, only int8"):
        written(bundle, tmp_path / "models")


def test_a_plan_is_served_by_the_tensorrt_backend(bundle: Bundle, tmp_path: Path) -> None:
    plan = tmp_path / "some.plan"
    plan.write_bytes(b"an engine")
    text, model = written(bundle, tmp_path / "models", plan=plan, batch=4)
    assert (model.name, model.read_bytes()) == ("model.plan", b"an engine")
    config = model_config(text)
    assert (config.platform, config.backend) == ("tensorrt_plan", "")
    assert config.default_model_filename == "model.plan"
    assert config.max_batch_size == 4
    assert not config.HasField("optimization")
    unsaid = model_config(written(bundle, tmp_path / "more", plan=plan)[0])
    assert unsaid.max_batch_size == 1  # an engine takes no more frames than it was built for
    assert [warm.batch_size for warm in unsaid.model_warmup] == [1]


def test_one_size_is_written_into_model_and_configuration(bundle: Bundle, tmp_path: Path) -> None:
    text, model = written(bundle, tmp_path / "models", size=(6, 10))
    assert [port.shape for port in session_of(model).get_inputs()] == [["n", 6, 10, 3]]
    assert [port.shape for port in session_of(model).get_outputs()] == [["n", 12, 20, 3]]
    frames = random_frames(3, 6, 10, 3)
    assert np.array_equal(session_of(model).run(None, {"frame": frames})[0], upscale(frames))
    config = model_config(text)
    assert list(config.input[0].dims) == [6, 10, 3]
    assert list(config.output[0].dims) == [12, 20, 3]
    assert list(config.model_warmup[0].inputs["frame"].dims) == [6, 10, 3]


def test_a_size_that_the_bundle_does_not_take_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    ruled = replace(bundle.manifest.geometry, size_rule=SizeRule(8, 4))
    with pytest.raises(UsageError, match="no 10x16 frames for Triton; the next size is 12x16"):
        written(Bundle(bundle.folder, replace(bundle.manifest, geometry=ruled)), tmp_path / "models", size=(10, 16))
    assert not (tmp_path / "models").exists()


def fixed_bundle(folder: Path) -> Bundle:
    """A bundle for frames of 6x10 pixels, one at a time."""
    model = onnx.load_model_from_string(upscale_model())
    for port, shape in ((model.graph.input[0], (1, 6, 10, 3)), (model.graph.output[0], (1, 12, 20, 3))):
        for dim, side in zip(port.type.tensor_type.shape.dim, shape, strict=True):
            dim.dim_value = side
    folder.mkdir()
    file = add_file(folder, "model.fp32.onnx", model.SerializeToString())
    plain = small_manifest({"fp32": Artifact(file.file, file.sha256)})
    manifest = replace(
        plain,
        inputs=(replace(plain.frame, shape=(1, 6, 10, 3)),),
        outputs=(replace(plain.image, shape=(1, 12, 20, 3)),),
        geometry=replace(plain.geometry, fixed_size=(6, 10)),
    )
    write_manifest(folder, manifest)
    return open_bundle(folder)


def test_a_graph_of_one_frame_has_no_batch_dimension(tmp_path: Path) -> None:
    bundle = fixed_bundle(tmp_path / "fixed")
    for size in (None, (6, 10)):
        config = model_config(written(bundle, tmp_path / f"models-{size}", size=size)[0])
        assert config.max_batch_size == 0
        assert list(config.input[0].dims) == [1, 6, 10, 3]
        assert list(config.output[0].dims) == [1, 12, 20, 3]
        assert not config.HasField("dynamic_batching")
        (warm,) = config.model_warmup
        assert warm.batch_size == 1  # with 0 the server would leave it out
        assert list(warm.inputs["frame"].dims) == [1, 6, 10, 3]
    with pytest.raises(UsageError, match="takes frames of 6x10 only, not of 8x8"):
        written(bundle, tmp_path / "other", size=(8, 8))


def test_all_images_are_outputs(bundle: Bundle, tmp_path: Path) -> None:
    config = model_config(written(open_bundle(add_negative(bundle.folder)), tmp_path / "models")[0])
    assert [port.name for port in config.output] == ["image", "negative"]


# --- codes ------------------------------------------------------------------------------------------------------------


def test_codes_are_plain_inputs_whose_defaults_a_client_can_ask_for(tmp_path: Path) -> None:
    bundle = open_bundle(write_conditional_bundle(tmp_path / "b"))
    config = model_config(written(bundle, tmp_path / "models")[0])
    fp32 = 11
    found = {port.name: (port.data_type, list(port.dims), port.optional) for port in config.input}
    for port in CODES:
        assert port.code is not None
        dims = [port.code.size, -1, -1] if port.is_map else [port.code.size]
        assert found[port.name] == (fp32, dims, False)
        parameter = config.parameters[f"genedge.code.{port.name}.default"]
        assert json.loads(parameter.string_value) == list(port.code.default)
    assert {port.name for port in config.input} == {"frame", *(port.name for port in CODES)}
    sizes = {name: list(entry.dims) for name, entry in config.model_warmup[0].inputs.items()}
    assert sizes.keys() == {"frame", *(port.name for port in CODES)}
    for port in CODES:
        assert port.code is not None
        assert sizes[port.name] == ([port.code.size, 8, 12] if port.is_map else [port.code.size])


# --- generators with a state ------------------------------------------------------------------------------------------


def float_recurrent_bundle(folder: Path) -> Bundle:
    """A conditional generator with one float state, all of whose ports have a batch."""
    return open_bundle(write_conditional_bundle(folder, states=True))


def test_states_stay_in_the_server_and_begin_anew_with_each_stream(tmp_path: Path) -> None:
    bundle = float_recurrent_bundle(tmp_path / "b")
    text, model = written(bundle, tmp_path / "models")
    config = model_config(text)
    batching = config.sequence_batching
    assert config.max_batch_size == 1  # states of two sizes would come into one batch
    assert batching.WhichOneof("strategy_choice") == "oldest"
    assert batching.oldest.max_candidate_sequences == 64
    sides = {port.name: port.shape for port in session_of(model).get_inputs()}
    assert sides["frame"][:3] == ["n", "h", "w"]
    assert sides["hidden_kept"][:2] == ["n", 3]
    assert not {"h", "w"} & set(sides["hidden_kept"])  # they are 1 in the first step
    (control,) = batching.control_input
    assert control.name == "START"
    assert control.control[0].kind == 0  # CONTROL_SEQUENCE_START
    assert list(control.control[0].bool_false_true) == [False, True]
    (state,) = batching.state
    assert (state.input_name, state.output_name) == ("hidden_kept", "next_hidden")
    assert list(state.dims) == [3, -1, -1]
    (initial,) = state.initial_state
    assert initial.zero_data
    assert initial.name
    assert list(initial.dims) == [3, 1, 1]
    assert "hidden_kept" not in {port.name for port in config.input}
    assert [port.name for port in config.output] == ["image"]
    assert not config.HasField("dynamic_batching")
    assert not config.model_warmup


def test_states_of_one_size_are_batched_across_streams(tmp_path: Path) -> None:
    bundle = float_recurrent_bundle(tmp_path / "b")
    config = model_config(written(bundle, tmp_path / "models", size=(8, 12), batch=4)[0])
    assert config.max_batch_size == 4
    (state,) = config.sequence_batching.state
    assert list(state.dims) == list(state.initial_state[0].dims) == [3, 8, 12]
    assert list(config.sequence_batching.oldest.preferred_batch_size) == [2, 4]
    assert config.sequence_batching.oldest.max_queue_delay_microseconds == 2000


@pytest.mark.parametrize("size", [None, (8, 12)])
def test_streams_do_not_see_each_other(tmp_path: Path, size: tuple[int, int] | None) -> None:
    bundle = float_recurrent_bundle(tmp_path / "b")
    text, model = written(bundle, tmp_path / "models", size=size)
    defaults = {
        port.name: np.array(
            np.broadcast_to(
                np.array(port.code.default, np.float32).reshape(1, -1, *([1, 1] if port.is_map else [])),
                (1, port.code.size, *((8, 12) if port.is_map else ())),
            )
        )
        for port in CODES
        if port.code is not None
    }
    streams = [random_frames(4, 8, 12, 3, seed=seed) for seed in range(3)]
    images = served_in_turn(text, model, streams, defaults)
    for frames, found in zip(streams, images, strict=True):
        wanted = conditional_run(frames[:, None], [{}] * len(frames))
        assert np.array_equal(found, wanted[:, 0])


def test_a_batch_of_streams_of_which_one_begins(tmp_path: Path) -> None:
    """Two streams in one batch, the second of which is in its first step."""
    _, model = written(float_recurrent_bundle(tmp_path / "b"), tmp_path / "models", size=(8, 12))
    frames = random_frames(2, 8, 12, 3)
    codes = {
        port.name: np.zeros([2, port.code.size, *([8, 12] if port.is_map else [])], np.float32)
        for port in CODES
        if port.code is not None
    }
    kept = np.full((2, 3, 8, 12), 5, np.float32)
    fed = {"frame": frames, "START": np.array([[False], [True]]), "hidden_kept": kept, **codes}
    image = session_of(model).run(["image"], fed)[0]
    assert np.array_equal(image[0], upscale(((frames[0].astype(int) + 5) % 256).astype(np.uint8)[None])[0])
    assert np.array_equal(image[1], upscale(frames[1:])[0])


@pytest.mark.parametrize("size", [None, (8, 12)])
def test_a_state_that_is_the_frame_before_becomes_an_output(tmp_path: Path, size: tuple[int, int] | None) -> None:
    bundle = open_bundle(write_recurrent_bundle(tmp_path / "b"))
    text, model = written(bundle, tmp_path / "models", size=size)
    streams = [random_frames(5, 8, 12, 3, seed=7), random_frames(3, 8, 12, 3, seed=8)]
    for frames, found in zip(streams, served_in_turn(text, model, streams), strict=True):
        assert np.array_equal(found, recurrent(frames[:, None])[:, 0])
    config = model_config(text)
    states = {state.input_name: state for state in config.sequence_batching.state}
    assert states["previous_kept"].output_name == "next_previous"
    assert states["count_kept"].data_type == 9  # TYPE_INT64
    # one of its states has no batch dimension
    assert config.max_batch_size == 0
    assert list(states["count_kept"].dims) == [1]
    sides = [-1, -1] if size is None else list(size)
    assert list(states["previous_kept"].dims) == [-1, *sides, 3]
    assert list(states["previous_kept"].initial_state[0].dims) == [1, *(max(1, side) for side in sides), 3]
    assert list(config.input[0].dims) == [-1, *sides, 3]


def test_a_start_of_the_bundles_own_is_left_alone(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(recurrent_model())
    for place in (*model.graph.input, *(node for node in model.graph.node)):
        if isinstance(place, onnx.NodeProto):
            place.input[:] = ["START" if name == "previous" else name for name in place.input]
        elif place.name == "previous":
            place.name = "START"
    folder = tmp_path / "b"
    folder.mkdir()
    file = add_file(folder, "model.fp32.onnx", model.SerializeToString())
    plain = small_manifest({"fp32": Artifact(file.file, file.sha256)}, states=True)
    renamed = tuple(replace(port, name="START") if port.name == "previous" else port for port in plain.inputs)
    write_manifest(folder, replace(plain, inputs=renamed))
    text, path = written(open_bundle(folder), tmp_path / "models")
    assert {port.name for port in session_of(path).get_inputs()} == {
        "frame",
        "START_2",
        "START_kept",
        *(f"{port.name}_kept" for port in STATES if port.name != "previous"),
    }
    assert re.findall(r'control_input \{\n\s*name: "(.*)"', text) == ["START_2"]


def test_a_plan_of_a_recurrent_generator_is_refused(tmp_path: Path) -> None:
    plan = tmp_path / "some.plan"
    plan.write_bytes(b"an engine")
    with pytest.raises(UsageError, match="has states"):
        written(open_bundle(write_recurrent_bundle(tmp_path / "b")), tmp_path / "models", plan=plan)


# --- the folder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "1 to 1024 frames, not 0"),
        ({"batch": 1025}, "1 to 1024 frames"),
        ({"plan": Path("nowhere.plan")}, r"nowhere\.plan: no such TensorRT engine"),
    ],
)
def test_settings_that_cannot_be(bundle: Bundle, tmp_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        written(bundle, tmp_path / "models", **settings)


def test_what_is_there_is_replaced_only_by_force_and_only_a_model(bundle: Bundle, tmp_path: Path) -> None:
    config = TritonConfig(tmp_path / "models")
    place = write_triton(bundle, config)
    (place / "2").mkdir()
    with pytest.raises(UsageError, match="add --force"):
        write_triton(bundle, config)
    assert (place / "2").is_dir()
    write_triton(bundle, config, force=True)
    assert sorted(path.name for path in place.iterdir()) == ["1", "config.pbtxt"]
    (place / "config.pbtxt").unlink()
    with pytest.raises(UsageError, match="no Triton model"):
        write_triton(bundle, config, force=True)


def test_nothing_is_left_of_a_bundle_that_is_damaged(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.folder / "model.fp32.onnx").write_bytes(conditional_model())
    with pytest.raises(Exception, match="sha256"):
        write_triton(bundle, TritonConfig(tmp_path / "models"))
    assert not (tmp_path / "models").exists()
