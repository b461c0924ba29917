"""From a model to a TensorRT plan, one code for 8.5 to 11.

Polygraphy knows what differs between the versions: its loaders make the builder's configuration and run the builder.
The parser is called here, since Polygraphy's own loader drops what the parser says about a node, and its messages go
to standard output.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from runtime.engines.facts import DeviceFacts, strongly_typed, tensorrt_module
from runtime.engines.log import Log, in_one_line
from runtime.engines.settings import EngineSettings
from runtime.errors import GenedgeError, MissingExtraError, UsageError

Shape = tuple[int, ...]
Shapes = Mapping[str, tuple[Shape, Shape, Shape]]  # input's name -> its smallest, usual and largest shape

GIB = 1 << 30
TICK = 1.0  # seconds between two words about the progress

_PARSED = re.compile(r'While parsing node number \d+ \[(\w+) -> "([^"]*)"\]')
_NODE_NAME = re.compile(r'^name: "([^"]*)"', re.MULTILINE)


def build_plan(
    model: bytes,
    inputs: Shapes,
    precision: str,
    facts: DeviceFacts,
    settings: EngineSettings,
    *,
    timing_cache: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> bytes:
    """Build an engine on this GPU and give its plan.

    Args:
        model: the ONNX file's bytes, of the variant that :func:`runtime.engines.facts.variant_for` names.
        inputs: every input's name -> its smallest, usual and largest shape.
        precision: fp32, fp16 or int8.
        timing_cache: file that is read and written where ``settings`` name none.
        progress: told every second from another thread how long it has taken, as ``12 s``.

    Raises :class:`UsageError` for a setting that this version of TensorRT or this GPU does not have, and
    :class:`GenedgeError` with the cause where the engine cannot be built.
    """
    check_settings(precision, facts, settings)
    trt = tensorrt_module()
    try:
        from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, Profile
        from polygraphy.exception import PolygraphyException
        from polygraphy.logger import G_LOGGER
    except ImportError:
        raise MissingExtraError("polygraphy", "tensorrt") from None
    timings = settings.timing_cache or timing_cache
    # Polygraphy would talk on standard output
    with contextlib.closing(Log(trt)) as log, G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1), _ticking(progress):
        builder = _builder(trt, log, facts)
        _check_dla(builder, settings)
        network, parser = _parsed(trt, builder, log, model, facts, settings)
        _fix_shapes(network, inputs)
        profile = Profile()
        for name, (smallest, usual, largest) in inputs.items():
            profile.add(name, min=smallest, opt=usual, max=largest)
        weakly = not strongly_typed(facts.version)
        try:
            with _opened(timings) as known:
                config = CreateConfig(
                    profiles=[profile],
                    tf32=precision != "fp32",  # it keeps 10 bits of a product's factors: too few for fp32's parity
                    fp16=weakly and precision in ("fp16", "int8"),
                    int8=weakly and precision == "int8",
                    load_timing_cache=known,
                    memory_pool_limits=_pools(trt, settings),
                    builder_optimization_level=settings.optimization_level,
                    version_compatible=settings.version_compatible,
                    hardware_compatibility_level=(
                        trt.HardwareCompatibilityLevel.AMPERE_PLUS if settings.hardware_compatible else None
                    ),
                )(builder, network)
            if facts.version == (8, 6):  # lets several contexts use one profile, as later versions do unasked
                config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)
            if settings.dla_core is not None:
                config.default_device_type = trt.DeviceType.DLA
                config.DLA_core = settings.dla_core
                config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
            plan = bytes(EngineBytesFromNetwork((builder, network, parser), config)())
        except (PolygraphyException, RuntimeError, ValueError) as error:
            raise GenedgeError(_why_not(log, error, inputs, facts)) from None
        if timings is not None:
            _write(timings, config.get_timing_cache(), progress)
    return plan


def check_settings(precision: str, facts: DeviceFacts, settings: EngineSettings) -> None:
    """Raise :class:`UsageError` for settings that this version of TensorRT or this GPU does not have."""
    level, version = settings.optimization_level, f"TensorRT {facts.version[0]}.{facts.version[1]}"
    for option, used in (
        ("--builder-optimization-level", level is not None),
        ("--version-compatible", settings.version_compatible),
        ("--hardware-compatible", settings.hardware_compatible),
    ):
        if used and facts.version < (8, 6):
            raise UsageError(f"{version} has no {option}, which came with 8.6: leave it out")
    if level is not None and not 0 <= level <= 5:
        raise UsageError(f"--builder-optimization-level {level}: choose 0 (built fast) to 5 (runs fast)")
    if settings.workspace_mib is not None and settings.workspace_mib < 1:
        raise UsageError(f"--workspace {settings.workspace_mib}: at least 1 MiB")
    if settings.hardware_compatible and facts.sm < (8, 0):
        raise UsageError(
            f"--hardware-compatible works from Ampere (sm_80) on, and {facts.gpu} is sm_{facts.sm[0]}{facts.sm[1]}: "
            "leave it out"
        )
    if settings.dla_core is not None and precision == "fp32":
        raise UsageError("a DLA computes in fp16 or int8: choose --precision fp16, or leave --dla-core out")


def _builder(trt: Any, log: Log, facts: DeviceFacts) -> Any:
    trt.init_libnvinfer_plugins(log.native, "")  # on 8.5 an instance norm is a plugin
    try:
        return trt.Builder(log.native)
    except (TypeError, RuntimeError):  # pybind11 says TypeError where the library gives no builder
        said = in_one_line(log.errors[-1] if log.errors else log.warnings[-1]) if log.errors or log.warnings else ""
        raise GenedgeError(
            f"TensorRT {facts.tensorrt} does not start on this driver, which serves CUDA {facts.driver}"
            f"{f' ({said})' if said else ''}: update the driver, or install the TensorRT that belongs to it"
        ) from None


def _check_dla(builder: Any, settings: EngineSettings) -> None:
    if settings.dla_core is None:
        return
    cores = builder.num_DLA_cores
    if settings.dla_core >= cores:
        here = "this device has none" if not cores else f"this device has {cores}, counted from 0"
        raise UsageError(f"--dla-core {settings.dla_core}: {here}")


def _pools(trt: Any, settings: EngineSettings) -> dict[Any, int] | None:
    if settings.workspace_mib is None:
        return None
    return {trt.MemoryPoolType.WORKSPACE: settings.workspace_mib << 20}


def _parsed(
    trt: Any, builder: Any, log: Log, model: bytes, facts: DeviceFacts, settings: EngineSettings
) -> tuple[Any, Any]:
    """The network of a model, and the parser, which owns the weights."""
    creation, flags = trt.NetworkDefinitionCreationFlag, 0
    # by name, where there is such a name: the same bit means something else in 8 and 11
    wanted = getattr(creation, "STRONGLY_TYPED" if strongly_typed(facts.version) else "EXPLICIT_BATCH", None)
    if wanted is not None:
        flags |= 1 << int(wanted)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log.native)
    if settings.version_compatible or settings.hardware_compatible:
        # the plugin of 8.6 is in neither kind of engine; from 10 on TensorRT's own norm is the default
        parser_flags = getattr(trt, "OnnxParserFlag", None)
        if parser_flags is not None and hasattr(parser_flags, "NATIVE_INSTANCENORM"):
            parser.set_flag(parser_flags.NATIVE_INSTANCENORM)
    if not parser.parse(model):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise GenedgeError(_unparsed(errors, log, facts))
    return network, parser


def _fix_shapes(network: Any, inputs: Shapes) -> None:
    """Where an input has one shape only, the network has no free dimension there: TensorRT folds what depends on it,
    and 8.5 lets several contexts use only an engine that has none."""
    for index in range(network.num_inputs):
        port = network.get_input(index)
        if port.name not in inputs:
            raise GenedgeError(
                f"the model has the input {port.name}, whose shape nothing tells: build the bundle again"
            )
        smallest, _, largest = inputs[port.name]
        if smallest == largest:
            port.shape = list(smallest)


def _unparsed(errors: list[Any], log: Log, facts: DeviceFacts) -> str:
    version = f"TensorRT {facts.version[0]}.{facts.version[1]}"
    if not errors:
        return f"{version} cannot read the model{f': {log.cause()}' if log.cause() else ''}"
    error = errors[0]
    why = in_one_line(error.desc())
    number = error.node()
    if number < 0:
        return f"{version} cannot read the model: {why}"
    node = f"node number {number}"
    if hasattr(error, "node_name"):  # from 10 on
        node = f"the node {error.node_name()} ({error.node_operator()})"
    else:
        said = "\n".join(log.errors)
        if parsed := _PARSED.search(said):
            name = _NODE_NAME.search(said)
            node = f"the node {name.group(1) if name else parsed.group(2)} ({parsed.group(1)})"
    return f"{version} does not take {node}: {why}"


def _why_not(log: Log, error: Exception, inputs: Shapes, facts: DeviceFacts) -> str:
    version = f"TensorRT {facts.version[0]}.{facts.version[1]}"
    if log.out_of_memory:
        asked = log.most_bytes_asked
        wanted = f", {version} asked for {asked / GIB:.1f} GiB at once" if asked is not None else ""
        return (
            f"the memory of {facts.gpu} ({facts.memory_bytes / GIB:.1f} GiB) is too small to build this engine"
            f"{wanted}: run with smaller tiles (--tile {_smaller_tile(inputs)}), allow less with --workspace, or end "
            "other programs on the GPU"
        )
    return f"{version} cannot build the engine: {log.cause() or in_one_line(str(error))}"


def _smaller_tile(inputs: Shapes) -> int:
    """Half the longer side of the largest frames, in steps of 32 pixels."""
    sides = [side for _, _, largest in inputs.values() if len(largest) == 4 for side in largest[1:3]]
    return max(64, max(sides, default=0) // 2 // 32 * 32)


@contextlib.contextmanager
def _ticking(progress: Callable[[str], None]) -> Iterator[None]:
    """Say every second how long it has taken, while TensorRT works and does not hold Python's lock."""
    start, done = time.monotonic(), threading.Event()

    def tick() -> None:
        while not done.wait(TICK):
            progress(f"{time.monotonic() - start:.0f} s")

    thread = threading.Thread(target=tick, name="engine-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[BinaryIO | None]:
    """A timing cache; None for one that is missing or cannot be read: without, the build is slower, nothing else."""
    try:
        file = path.open("rb") if path is not None else None
    except OSError:
        file = None
    with file or contextlib.nullcontext():
        yield file


def _write(path: Path, timings: Any, progress: Callable[[str], None]) -> None:
    """Keep what TensorRT has measured. ``timings`` is None where the cache was of another device."""
    if timings is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, bytes(timings.serialize()))
    except OSError as error:
        progress(f"the timing cache {path} could not be written ({error.strerror})")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is whole or not there, also after a power loss. Raises ``OSError``."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
