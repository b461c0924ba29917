"""Engines built by the fake library of four versions, through the real Polygraphy."""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from bundle_factory import upscale_model
from fake_tensorrt import VERSIONS, Gpu, fake, names

from runtime.engines import build
from runtime.engines.build import build_plan, check_settings
from runtime.engines.facts import DeviceFacts, strongly_typed, version_of
from runtime.engines.log import Log, in_one_line
from runtime.engines.settings import EngineSettings
from runtime.errors import GenedgeError, MissingExtraError, UsageError

INPUTS = {"frame": ((1, 64, 64, 3), (1, 360, 640, 3), (4, 720, 1280, 3))}
PLAIN = EngineSettings()
GIB = 1 << 30


def facts_of(version: str, **other: Any) -> DeviceFacts:
    return replace(DeviceFacts(names(version).version, "NVIDIA H200", (9, 0), 12, 4 * GIB), **other)


def named_model() -> bytes:
    """Nearest-neighbour upscaling whose nodes have names, as exported ones have."""
    model = onnx.load_from_string(upscale_model())
    for index, node in enumerate(model.graph.node):
        node.name = f"node_{node.op_type}_{index}"
    data: bytes = model.SerializeToString()
    return data


def built(version: str, precision: str = "fp16", settings: EngineSettings = PLAIN, **more: Any) -> dict[str, Any]:
    """What the library was told."""
    gpu = more.pop("gpu", None) or Gpu()
    with fake(version, gpu):
        plan = build_plan(named_model(), INPUTS, precision, facts_of(version), settings, **more)
        assert plan
    (record,) = gpu.builds
    return record


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    listed: str = request.param
    return listed


def test_frames_of_the_profile(version: str) -> None:
    assert built(version)["profiles"] == [{"frame": INPUTS["frame"]}]


def test_where_there_is_one_shape_nothing_is_free_and_contexts_may_share_the_profile(version: str) -> None:
    fixed = {"frame": ((1, 64, 64, 3),) * 3}
    for inputs, wanted in ((fixed, (1, 64, 64, 3)), (INPUTS, (-1, -1, -1, 3))):
        with fake(version, Gpu()) as trt:
            log = Log(trt)
            plan = build_plan(named_model(), inputs, "fp32", facts_of(version), PLAIN)
            engine = trt.Runtime(log.native).deserialize_cuda_engine(plan)
            assert engine.get_tensor_shape("frame") == wanted
            contexts = [engine.create_execution_context() for _ in range(3)]
            for context in contexts:
                context.set_optimization_profile_async(0, 0)
            log.close()


@pytest.mark.parametrize(
    ("precision", "weak"),
    [("fp32", set()), ("fp16", {"FP16", "TF32"}), ("int8", {"FP16", "INT8", "TF32"})],
)
def test_precision_flags_only_below_strong_typing(version: str, precision: str, weak: set[str]) -> None:
    record = built(version, precision)
    strong = strongly_typed(version_of(names(version).version))
    assert record["strongly_typed"] is strong
    assert record["flags"] == ({"TF32"} & weak if strong else weak)


def test_settings_reach_the_builder(version: str) -> None:
    settings = EngineSettings(workspace_mib=512, optimization_level=4, version_compatible=True)
    record = built(version, settings=replace(settings, hardware_compatible=True))
    assert record["pools"] == {"WORKSPACE": 512 << 20}
    assert record["optimization_level"] == 4
    assert "VERSION_COMPATIBLE" in record["flags"]
    assert record["hardware"] == "AMPERE_PLUS"
    # the norm of 8.6 is a plugin, which is in no such engine; its preview, 8.6.0, has no other
    assert record["parser_flags"] == ({"NATIVE_INSTANCENORM"} if names(version).has("OnnxParserFlag") else set())


def test_dla_with_the_gpu_behind_it(version: str) -> None:
    record = built(version, settings=EngineSettings(dla_core=1), gpu=Gpu(dla_cores=2))
    assert (record["device"], record["dla_core"]) == ("DLA", 1)
    assert "GPU_FALLBACK" in record["flags"]
    assert not record["flags"] & {"PREFER_PRECISION_CONSTRAINTS", "DIRECT_IO"}


@pytest.mark.parametrize(("cores", "says"), [(0, "has none"), (2, "has 2")])
def test_a_dla_that_is_not_there(cores: int, says: str) -> None:
    gpu = Gpu(dla_cores=cores)
    with fake("10.3.0", gpu), pytest.raises(UsageError, match=f"--dla-core 2: this device {says}"):
        build_plan(named_model(), INPUTS, "fp16", facts_of("10.3.0"), EngineSettings(dla_core=2))
    assert not gpu.builds


def test_timings_are_kept_and_used_again(version: str, tmp_path: Path) -> None:
    file = tmp_path / "new" / "timings"
    assert built(version, timing_cache=file)["timings"] == b""
    assert file.read_bytes() == b"timed;"
    assert built(version, timing_cache=file)["timings"] == b"timed;"
    assert [path.name for path in file.parent.iterdir()] == ["timings"]


def test_the_users_timing_cache_comes_first(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    built("11.4", settings=EngineSettings(timing_cache=own), timing_cache=other)
    assert own.exists()
    assert not other.exists()


@pytest.mark.parametrize(("content", "afterwards"), [(b"damaged", b"timed;"), (b"foreign", b"foreign")])
def test_timings_that_do_not_fit(version: str, tmp_path: Path, content: bytes, afterwards: bytes) -> None:
    file = tmp_path / "timings"
    file.write_bytes(content)
    built(version, timing_cache=file)
    assert file.read_bytes() == afterwards  # those of another device are left alone


def test_an_engine_is_not_lost_with_its_timings(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    said: list[str] = []
    built("10.3.0", timing_cache=tmp_path / "file" / "timings", progress=said.append)
    assert said
    assert "could not be written" in said[-1]


def test_a_node_that_tensorrt_does_not_take(version: str) -> None:
    gpu = Gpu(refused_nodes={"node_Resize_2": "Assertion failed: scales.is_weights()"})
    with fake(version, gpu), pytest.raises(GenedgeError) as caught:
        build_plan(named_model(), INPUTS, "fp32", facts_of(version), PLAIN)
    short = ".".join(names(version).version.split(".")[:2])
    assert str(caught.value) == (
        f"TensorRT {short} does not take the node node_Resize_2 (Resize): Assertion failed: scales.is_weights()"
    )


def test_no_model_at_all(version: str) -> None:
    with fake(version), pytest.raises(GenedgeError, match="cannot read the model: Failed to parse"):
        build_plan(b"\xff\xff", INPUTS, "fp32", facts_of(version), PLAIN)


def test_an_input_that_the_model_does_not_have() -> None:
    shapes = {**INPUTS, "code": ((1, 4), (1, 4), (1, 4))}
    with fake("10.3.0"), pytest.raises(GenedgeError, match=r"cannot build the engine: Invalid inputs .*code"):
        build_plan(named_model(), shapes, "fp32", facts_of("10.3.0"), PLAIN)


def test_an_input_that_nothing_is_said_of() -> None:
    with fake("11.4"), pytest.raises(GenedgeError, match="the model has the input frame, whose shape nothing tells"):
        build_plan(named_model(), {"code": ((1, 4),) * 3}, "fp32", facts_of("11.4"), PLAIN)


def test_the_builder_gives_nothing(version: str) -> None:
    log = [
        (
            "ERROR",
            "10: [optimizer.cpp::computeCosts::3869] Error Code 10: Internal Error (Could not find any implementation "
            "for node {ForeignNode[/conv...]}.)",
        )
    ]
    gpu = Gpu(build_log=log, build_fails=True)
    with fake(version, gpu), pytest.raises(GenedgeError) as caught:
        build_plan(named_model(), INPUTS, "fp16", facts_of(version), PLAIN)
    text = str(caught.value)
    assert text.endswith(
        "cannot build the engine: (Could not find any implementation for node {ForeignNode[/conv...]}.)"
    )


# NVIDIA/TensorRT issue 4258 (10.3), and VoltaML issue 15 (8.5) with the end of 8.x
OUT_OF_MEMORY = {
    "10.3": [
        ("ERROR", "Error[1]: [defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)"),
        (
            "WARNING",
            "Requested amount of GPU memory (15485030400 bytes) could not be allocated. There may not be enough free "
            "memory for allocation to succeed.",
        ),
        (
            "ERROR",
            "Error[9]: Error Code: 9: Skipping tactic 0x0000000000000000 due to exception "
            "[tunable_graph.cpp:create:117] autotuning: User allocator error allocating 15485030400-byte buffer",
        ),
        (
            "ERROR",
            "Error[10]: IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any "
            "implementation for node {ForeignNode[/1/Constant_36_output_0.../1/Slice_4]}.)",
        ),
    ],
    "8.6": [
        ("WARNING", "Requested amount of GPU memory (17179869184 bytes) could not be allocated."),
        (
            "WARNING",
            "Skipping tactic 8 due to insufficient memory on requested size of 17179869184 detected for tactic 0x3c.",
        ),
        (
            "ERROR",
            "10: [optimizer.cpp::computeCosts::3869] Error Code 10: Could not find any implementation for node x.",
        ),
    ],
}


@pytest.mark.parametrize(("recorded", "asked"), [("10.3", "14.4"), ("8.6", "16.0")])
def test_out_of_gpu_memory(recorded: str, asked: str) -> None:
    gpu = Gpu(build_log=OUT_OF_MEMORY[recorded], build_fails=True)
    with fake("10.3.0", gpu), pytest.raises(GenedgeError) as caught:
        build_plan(named_model(), INPUTS, "fp16", facts_of("10.3.0"), PLAIN)
    text = str(caught.value)
    assert f"asked for {asked} GiB" in text
    assert "4.0 GiB" in text
    assert "--tile 640" in text  # half of 1280


def test_a_skipped_kernel_is_no_failure(version: str) -> None:
    built(version, gpu=Gpu(build_log=[OUT_OF_MEMORY["8.6"][0]]))


def test_too_little_memory_for_a_kernel_is_not_the_cause_of_every_failure() -> None:
    with fake("11.4") as trt:
        log = Log(trt)
        log.native.log(trt.ILogger.WARNING, OUT_OF_MEMORY["8.6"][1][1])
        log.native.log(trt.ILogger.INFO, "out of memory")
        assert log.out_of_memory
        log.native.log(trt.ILogger.ERROR, "Error Code 4: Internal Error (no profile)")
        assert not log.out_of_memory
        log.close()


def test_the_largest_allocation_is_told() -> None:
    with fake("11.4") as trt:
        log = Log(trt)
        assert log.most_bytes_asked is None
        for count in (5, 70, 6):
            log.native.log(
                trt.ILogger.WARNING, f"Requested amount of GPU memory ({count} bytes) could not be allocated."
            )
        log.native.log(trt.ILogger.WARNING, "insufficient memory on requested size of 60 detected for tactic 0x3c.")
        assert log.most_bytes_asked == 70
        log.close()


def test_one_logger_serves_the_process_and_each_log_hears_what_is_said_while_it_is_open() -> None:
    """TensorRT's plugins keep the address of the logger that they were given."""
    with fake("11.4") as trt:
        one = Log(trt)
        one.native.log(trt.ILogger.ERROR, "first")
        one.close()
        other = Log(trt)
        assert other.native is one.native
        other.native.log(trt.ILogger.INTERNAL_ERROR, "second")
        other.close()
        other.native.log(trt.ILogger.ERROR, "third")
    assert (list(one.errors), list(other.errors)) == (["first"], ["second"])


def test_the_library_finds_no_driver() -> None:
    """What 8.6.0 does on a machine without one; later a driver that is too old for the library looks the same."""
    with fake("8.6.0", Gpu(present=False)), pytest.raises(GenedgeError) as caught:
        build_plan(named_model(), INPUTS, "fp16", facts_of("8.6.0"), PLAIN)
    assert "does not start on this driver, which serves CUDA 12 (CUDA initialization failure with error: 35" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("settings", "precision", "facts", "says"),
    [
        (EngineSettings(optimization_level=3), "fp16", {"tensorrt": "8.5.2.2"}, "TensorRT 8.5 has no --builder-opt"),
        (EngineSettings(version_compatible=True), "fp16", {"tensorrt": "8.5.2.2"}, "has no --version-compatible"),
        (EngineSettings(hardware_compatible=True), "fp16", {"tensorrt": "8.5.2.2"}, "has no --hardware-compatible"),
        (EngineSettings(optimization_level=6), "fp16", {}, "choose 0 .* to 5"),
        (EngineSettings(workspace_mib=0), "fp16", {}, "at least 1 MiB"),
        (EngineSettings(hardware_compatible=True), "fp16", {"sm": (7, 5)}, "is sm_75"),
        (EngineSettings(dla_core=0), "fp32", {}, "DLA computes in fp16 or int8"),
    ],
)
def test_settings_that_are_not_possible(
    settings: EngineSettings, precision: str, facts: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        check_settings(precision, facts_of("8.6.0", **facts), settings)


def test_settings_of_8_5_that_are_possible() -> None:
    settings = EngineSettings(workspace_mib=1, timing_cache=Path("x"), dla_core=0)
    check_settings("int8", facts_of("8.6.0", tensorrt="8.5.2.2"), settings)


def test_it_says_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(build, "TICK", 0.01)
    said: list[str] = []

    def work() -> None:
        until = time.monotonic() + 5
        while len(said) < 2 and time.monotonic() < until:
            time.sleep(0.005)

    built("11.4", gpu=Gpu(while_building=work), progress=said.append)
    assert said[:2] == ["0 s", "0 s"]


def test_nothing_on_standard_output(capfd: pytest.CaptureFixture[str], version: str) -> None:
    gpu = Gpu(refused_nodes={"node_Resize_2": "no"})
    with fake(version, gpu), pytest.raises(GenedgeError):
        build_plan(named_model(), INPUTS, "fp16", facts_of(version), PLAIN)
    built(version)
    assert capfd.readouterr() == ("", "")


def test_without_polygraphy(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake("11.4"):
        monkeypatch.setitem(__import__("sys").modules, "polygraphy.backend.trt", None)
        with pytest.raises(MissingExtraError, match=r"polygraphy is not installed: pip install .genedge\[tensorrt\]"):
            build_plan(named_model(), INPUTS, "fp16", facts_of("11.4"), PLAIN)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("[a.cpp::f::12] Error Code 2: OutOfMemory (no further information)", "OutOfMemory (no further information)"),
        ("IBuilder::build: Error Code 4: Internal Error (no profile)", "(no profile)"),
        ("2: [a.cpp::f::1] Error Code 2: ", "2: [a.cpp::f::1] Error Code 2:"),  # nothing else is there
        ("plain\ntext", "plain text"),
    ],
)
def test_places_in_the_source_are_left_out(said: str, shown: str) -> None:
    assert in_one_line(said) == shown


# --- the names that the code uses -------------------------------------------------------------------------------------

#: what not every version has, and why asking for it is safe all the same
GUARDED = {"OnnxParserFlag": "getattr", "PreviewFeature": "8.6 only"}


def _module_names() -> set[str]:
    """``A.B`` of every ``trt.A.B`` in the runtime's source."""
    found = set()
    folder = Path(build.__file__).parents[1]
    for path in (*folder.glob("engines/*.py"), folder / "sessions" / "tensorrt.py"):
        if not path.exists():
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            chain: list[str] = []
            while isinstance(node, ast.Attribute):
                chain.insert(0, node.attr)
                node = node.value
            if chain and isinstance(node, ast.Name) and node.id in ("trt", "tensorrt"):
                found.add(".".join(chain[:2]))
    return {name for name in found if not name.split(".")[-1].startswith("__")}


def test_every_name_is_in_every_version(version: str) -> None:
    used, listed = _module_names(), names(version)
    assert "Builder" in used
    missing = {name for name in used if name.split(".")[0] not in GUARDED and not listed.has(name)}
    assert not missing


def test_the_lists_tell_the_versions_apart() -> None:
    old, new = names("8.6.0"), names("11.4")
    assert old.has("BuilderFlag.FP16")
    assert not new.has("BuilderFlag.FP16")
    assert old.enums["NetworkDefinitionCreationFlag"]["EXPLICIT_BATCH"] == 0
    assert new.enums["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"] == 0  # the same bit
    with fake("11.4") as trt:
        with pytest.raises(AttributeError):
            _ = trt.BuilderFlag.FP16
        with pytest.raises(AttributeError):
            trt.Builder(trt.Logger()).platform_has_fast_fp16  # noqa: B018
        config = trt.Builder(trt.Logger()).create_builder_config()
        with pytest.raises(AttributeError):
            config.max_workspace_size = 1
        assert importlib.util.find_spec("tensorrt") is not None
