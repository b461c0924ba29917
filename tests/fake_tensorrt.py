"""A ``tensorrt`` package without a GPU: the names of the real bindings, and behaviour that was recorded from them.

The lists in ``data/tensorrt`` were read from the real wheels with ``dir()``. A fake of a version has the classes,
members and enums of its list and nothing else, so code that uses a name which that version does not have fails here as
it fails there; and a behaviour below that stands in no list fails at once. "Device memory" is memory of this process,
and an engine is computed by ONNX Runtime.

    with fake("10.3.0", Gpu(sm=(8, 7))) as tensorrt: ...       # sys.modules["tensorrt"], also inside Polygraphy
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import importlib.machinery
import json
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime

DATA = Path(__file__).parent / "data" / "tensorrt"
VERSIONS = ("8.6.0", "10.3.0", "10.13.3", "11.4")

_MAGIC = b"ftrt "
_ONNX_TYPES = {1: "FLOAT", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "HALF"}
_NUMPY_TYPES = {
    "FLOAT": np.float32,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
    "HALF": np.float16,
}
_LAYER_TYPES = {"QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Conv": "CONVOLUTION"}


@dataclass
class Gpu:
    """What the fake library finds, does and has done. Tests change it and look at it."""

    sm: tuple[int, int] = (9, 0)
    present: bool = True  # else no driver
    dla_cores: int = 0
    #: severity and text of what the builder logs
    build_log: list[tuple[str, str]] = field(default_factory=list)
    build_fails: bool = False  # the builder gives None
    #: name of a node that the parser does not take -> why
    refused_nodes: dict[str, str] = field(default_factory=dict)
    while_building: Callable[[], None] = lambda: None
    out_of_memory: bool = False  # an execution context is not given
    #: gets the stream's handle and the work of every execution; by default the work is done at once
    enqueue: Callable[[int, Callable[[], None]], None] = lambda stream, work: work()
    builds: list[dict[str, Any]] = field(default_factory=list)  # one entry a call of build_serialized_network
    executions: int = 0


@dataclass(frozen=True)
class Names:
    """The names of one version's bindings."""

    version: str
    enums: Mapping[str, Mapping[str, int]]  # "BuilderFlag" -> {"FP16": 0}
    members: Mapping[str, frozenset[str]]  # "Builder" -> {"create_network"}, those of base classes too
    bases: Mapping[str, str]
    functions: frozenset[str]

    def has(self, dotted: str) -> bool:
        """Whether ``Builder``, ``Builder.create_network``, ``BuilderFlag.FP16`` or ``nptype`` exists."""
        owner, _, member = dotted.rpartition(".")
        if not owner:
            return dotted in self.functions or dotted in self.enums or dotted in self.members
        return member in self.enums.get(owner, {}) or member in self.members.get(owner, frozenset())


def names(version: str) -> Names:
    """Read ``data/tensorrt/names-<version>.txt``."""
    enums: dict[str, dict[str, int]] = {}
    own: dict[str, list[str]] = {}
    bases: dict[str, str] = {}
    functions: set[str] = set()
    full = version
    for line in (DATA / f"names-{version}.txt").read_text(encoding="ascii").splitlines():
        kind, _, rest = line.partition(" ")
        name, _, listed = rest.partition(":")
        if kind == "version":
            full = rest
        elif kind == "enum":
            values = (entry.split("=") for entry in listed.split())
            enums[name] = {key: int(value) for key, value in values}
        elif kind == "class":
            name, _, base = name.partition("(")
            own[name] = listed.split()
            if base:
                bases[name] = base.rstrip(")")
        elif kind in ("function", "value"):
            functions.add(name)

    def all_of(name: str) -> set[str]:
        return set(own.get(name, ())) | (all_of(bases[name]) if name in bases else set())

    members = {name: frozenset(all_of(name)) for name in own}
    for name in enums:  # nested ones are members of their class too
        owner, _, nested = name.rpartition(".")
        if owner in members:
            members[owner] |= {nested}
    return Names(full, enums, members, bases, frozenset(functions))


@contextlib.contextmanager
def fake(version: str = "11.4", gpu: Gpu | None = None) -> Iterator[types.ModuleType]:
    """Let ``import tensorrt``, also Polygraphy's, give the fake of a version. ``module.gpu_of_test`` is the GPU."""
    import polygraphy.backend.trt  # without it there is nothing to patch
    import polygraphy.backend.trt.util  # noqa: F401

    module = fake_module(version, gpu or Gpu())
    before = sys.modules.get("tensorrt")
    with contextlib.ExitStack() as stack:
        sys.modules["tensorrt"] = module  # not mock.patch.dict, which would forget what is imported meanwhile
        stack.callback(_restore, before)
        for name, loaded in list(sys.modules.items()):
            # Polygraphy keeps the module that it imported first
            if name.startswith("polygraphy.") and "trt" in getattr(loaded, "__dict__", {}):
                stack.enter_context(mock.patch.object(loaded, "trt", module))
        yield module


def _restore(before: types.ModuleType | None) -> None:
    if before is None:
        del sys.modules["tensorrt"]
    else:
        sys.modules["tensorrt"] = before


def fake_module(version: str, gpu: Gpu) -> types.ModuleType:
    """A module with the names of ``version`` whose library finds ``gpu``."""
    listed = names(version)
    module = types.ModuleType("tensorrt")
    module.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)  # for importlib.util.find_spec
    module.__version__ = listed.version  # type: ignore[attr-defined]
    module.gpu_of_test = gpu  # type: ignore[attr-defined]
    enums = {name: _enum(name, values) for name, values in listed.enums.items()}
    for name, made in enums.items():
        if "." not in name:
            setattr(module, name, made)
    for name in sorted(listed.members, key=lambda name: name in listed.bases):  # base classes first
        if "." not in name:
            setattr(module, name, _bound(name, listed, module, enums))
    for name in listed.functions & _FUNCTIONS.keys():
        setattr(module, name, _FUNCTIONS[name])
    for name, dtype in {"uint8": "UINT8", "float32": "FLOAT", "float16": "HALF", "int32": "INT32"}.items():
        setattr(module, name, module.DataType[dtype])  # type: ignore[attr-defined]
    return module


def _enum(name: str, values: Mapping[str, int]) -> Any:
    """Like pybind11's: with ``int()`` and ``__members__``, but no number in calculations."""
    number = {"__int__": lambda self: self.value, "__index__": lambda self: self.value}
    made = enum.Enum(name.rpartition(".")[2], dict(values))  # type: ignore[misc]
    for method, function in number.items():
        setattr(made, method, function)
    return made


class _Refused:
    """A member of the behaviour that this version does not have."""

    def __init__(self, owner: str, name: str) -> None:
        self.text = f"type object '{owner}' has no attribute '{name}'"

    def __get__(self, instance: object, owner: type) -> Any:
        raise AttributeError(self.text)

    def __set__(self, instance: object, value: object) -> None:
        raise AttributeError(self.text)


def _bound(name: str, listed: Names, module: types.ModuleType, enums: Mapping[str, Any]) -> type:
    allowed = listed.members[name]
    behaviour = _BEHAVIOURS.get(name, _Unknown)
    content: dict[str, Any] = {"_trt": module}
    for attribute in dir(behaviour):
        if not attribute.startswith("_") and attribute not in allowed:
            content[attribute] = _Refused(name, attribute)
    for full, made in enums.items():
        owner, _, nested = full.rpartition(".")
        if owner == name:
            content[nested] = made
            if nested == "Severity":
                content.update(made.__members__)

    def set_attribute(self: object, attribute: str, value: object) -> None:
        if type(self).__name__ == name and not attribute.startswith("_") and attribute not in allowed:
            raise AttributeError(f"'{name}' object has no attribute '{attribute}'")
        object.__setattr__(self, attribute, value)

    content["__setattr__"] = set_attribute
    base = getattr(module, listed.bases[name], None) if name in _BEHAVIOURS and name in listed.bases else None
    return type(name, (behaviour, base) if base is not None else (behaviour,), content)


# --- what the classes do ----------------------------------------------------------------------------------------------


class _Unknown:
    """A class of the bindings that nothing here needs."""

    def __init__(self, *_: object, **__: object) -> None:
        raise AssertionError(f"the fake tensorrt knows nothing about {type(self).__name__}")


class _Native:
    """A class of the bindings: knows the module of its version."""

    _trt: Any

    @property
    def _gpu(self) -> Gpu:
        return self._trt.gpu_of_test  # type: ignore[no-any-return]


class _ILogger(_Native):
    def log(self, severity: Any, text: str) -> None:
        raise NotImplementedError


class _Logger(_ILogger):
    def __init__(self, min_severity: Any = None) -> None:
        self.min_severity = min_severity

    def log(self, severity: Any, text: str) -> None:
        print(f"[TRT] {text}", file=sys.stderr)


def _tell(logger: Any, severity: str, text: str) -> None:
    logger.log(getattr(logger, severity), text)


class _HostMemory(_Native):
    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def nbytes(self) -> int:
        return len(self._data)

    @property
    def dtype(self) -> Any:
        return self._trt.DataType.INT8

    def __bytes__(self) -> bytes:  # the real one is a buffer
        return self._data

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Builder(_Native):
    def __init__(self, logger: Any) -> None:
        if not self._gpu.present:  # recorded from 8.6.0 on a machine without a driver
            _tell(logger, "WARNING", "Unable to determine GPU memory usage")
            _tell(
                logger,
                "WARNING",
                "CUDA initialization failure with error: 35. Please check your CUDA installation:  "
                "http://docs.nvidia.com/cuda/cuda-installation-guide-linux/index.html",
            )
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802
        return self._gpu.dla_cores

    def create_network(self, flags: int = 0) -> Any:
        if not isinstance(flags, int):
            raise TypeError("create_network(): incompatible function arguments")
        return self._trt.INetworkDefinition(flags)

    def create_builder_config(self) -> Any:
        return self._trt.IBuilderConfig(self._logger)

    def create_optimization_profile(self) -> Any:
        return self._trt.IOptimizationProfile()

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        gpu = self._gpu
        record = {
            "flags": frozenset(config._flags),
            "strongly_typed": network._strongly_typed,
            "parser_flags": frozenset(network._parser_flags),
            "profiles": [dict(profile._shapes) for profile in config._profiles],
            "pools": {pool.name: size for pool, size in config._pools.items()},
            "optimization_level": config._values.get("builder_optimization_level"),
            "hardware": getattr(config._values.get("hardware_compatibility_level"), "name", None),
            "device": getattr(config._values.get("default_device_type"), "name", None),
            "dla_core": config._values.get("DLA_core"),
            "timings": config._timings._data if config._timings is not None else None,
        }
        gpu.builds.append(record)
        gpu.while_building()
        for severity, text in gpu.build_log:
            _tell(self._logger, severity, text)
        if gpu.build_fails:
            return None
        precisions = record["flags"] & {"FP16", "INT8", "BF16"}
        if network._strongly_typed and precisions:
            _tell(
                self._logger,
                "ERROR",
                "IBuilder::buildSerializedNetwork: Error Code 3: API Usage Error (Parameter check failed, condition: "
                "!config.getFlag(BuilderFlag::kFP16). Precision flags cannot be used in strongly typed networks.)",
            )
            return None
        dynamic = [port for port in network._inputs if -1 in port.shape]
        if dynamic and not config._profiles:
            text = "Network has dynamic or shape inputs, but no optimization profile has been defined."
            _tell(self._logger, "ERROR", f"Error Code 4: Internal Error ({text})")
            return None
        if config._timings is not None:
            config._timings._data += b"timed;"
        ports = network._inputs
        if config._profiles:
            shapes = config._profiles[0]._shapes
        else:
            shapes = {port.name: (tuple(port.shape),) * 3 for port in ports}
        head = {
            "version": self._trt.__version__,
            "sm": list(gpu.sm),
            "any_version": "VERSION_COMPATIBLE" in record["flags"],
            "any_gpu": record["hardware"] == "AMPERE_PLUS",
            "shapes": {name: [list(shape) for shape in three] for name, three in shapes.items()},
            "static": not dynamic,
            "sharing": "PROFILE_SHARING_0806" in config._previews,
        }
        return self._trt.IHostMemory(_MAGIC + json.dumps(head).encode() + b"\n" + network._model)


class _Tensor(_Native):
    is_shape_tensor = False

    def __init__(self, name: str, dtype: Any, shape: tuple[int, ...]) -> None:
        self._name, self._dtype, self._shape = name, dtype, shape

    @property
    def name(self) -> str:
        return self._name

    @property
    def dtype(self) -> Any:
        return self._dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @shape.setter
    def shape(self, sides: Sequence[int]) -> None:
        self._shape = tuple(sides)


class _Layer(_Native):
    def __init__(self, name: str, kind: str) -> None:
        self._name, self._kind = name, kind

    @property
    def name(self) -> str:
        return self._name

    @property
    def type(self) -> Any:
        return self._trt.LayerType[self._kind]

    @property
    def precision_is_set(self) -> bool:
        return False


class _Network(_Native):
    def __init__(self, flags: int) -> None:
        creation = self._trt.NetworkDefinitionCreationFlag.__members__
        self._major = int(self._trt.__version__.split(".")[0])
        typed = creation.get("STRONGLY_TYPED")
        # in 11 every network is strongly typed, whatever the flags say
        self._strongly_typed = self._major >= 11 or (typed is not None and bool(flags & 1 << int(typed)))
        self._explicit = self._major >= 10 or bool(flags & 1 << int(creation["EXPLICIT_BATCH"]))
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._layers: list[Any] = []
        self._model = b""
        self._parser_flags: set[str] = set()

    def get_flag(self, flag: Any) -> bool:
        return bool(flag.name == "STRONGLY_TYPED" and self._strongly_typed)

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def get_output(self, index: int) -> Any:
        return self._outputs[index]

    def get_layer(self, index: int) -> Any:
        return self._layers[index]

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, index: int) -> Any:
        return self._layers[index]


class _ParserError(_Native):
    def __init__(self, code: str, text: str, node: int = -1, name: str = "", operator: str = "") -> None:
        self._code, self._text, self._node, self._name, self._operator = code, text, node, name, operator

    def code(self) -> Any:
        return self._trt.ErrorCode[self._code]

    def desc(self) -> str:
        return self._text

    def node(self) -> int:
        return self._node

    def node_name(self) -> str:
        return self._name

    def node_operator(self) -> str:
        return self._operator

    def func(self) -> str:
        return "parseNode"

    def file(self) -> str:
        return "ModelImporter.cpp"

    def line(self) -> int:
        return 150


class _OnnxParser(_Native):
    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._logger = network, logger
        self._errors: list[Any] = []

    def set_flag(self, flag: Any) -> None:
        self._network._parser_flags.add(flag.name)

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        if not self._network._explicit:
            text = (
                "This version of the ONNX parser only supports TensorRT INetworkDefinitions with an explicit batch "
                "dimension."
            )
            self._errors.append(self._trt.ParserError("INVALID_GRAPH", text))
            return False
        try:
            graph = onnx.load_from_string(model).graph
        except Exception:  # protobuf's and the parser's errors have no class in common
            self._errors.append(self._trt.ParserError("MODEL_DESERIALIZE_FAILED", "Failed to parse ONNX model"))
            return False
        self._errors += [error for index, node in enumerate(graph.node) if (error := self._error(index, node))]
        if self._errors:
            return False
        network = self._network
        network._model = model
        network._inputs = [self._port(value) for value in graph.input]
        network._outputs = [self._port(value) for value in graph.output]
        network._layers = [
            self._trt.ILayer(node.name, _LAYER_TYPES.get(node.op_type, "IDENTITY")) for node in graph.node
        ]
        return True

    def _error(self, index: int, node: Any) -> Any:
        text = self._gpu.refused_nodes.get(node.name)
        if text is None:
            return None
        # as https://github.com/NVIDIA/TensorRT/issues/1997 shows the log of 8.4
        for line in (
            f'ModelImporter.cpp:748: While parsing node number {index} [{node.op_type} -> "{node.output[0]}"]:',
            "ModelImporter.cpp:749: --- Begin node ---",
            f"ModelImporter.cpp:750: {node}",
            "ModelImporter.cpp:751: --- End node ---",
            f"ModelImporter.cpp:754: ERROR: ModelImporter.cpp:162 In function parseGraph:\n[6] {text}",
        ):
            _tell(self._logger, "ERROR", line)
        return self._trt.ParserError("UNSUPPORTED_NODE", text, index, node.name, node.op_type)

    def _port(self, value: Any) -> Any:
        kind = value.type.tensor_type
        shape = tuple(side.dim_value if side.HasField("dim_value") else -1 for side in kind.shape.dim)
        return self._trt.ITensor(value.name, self._trt.DataType[_ONNX_TYPES[kind.elem_type]], shape)


class _TimingCache(_Native):
    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> Any:
        return self._trt.IHostMemory(self._data)

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        self._data += input_cache._data
        return True


def _value(name: str) -> Any:
    """A property of a builder's configuration that is only kept."""

    def get(self: Any) -> Any:
        return self._values.get(name)

    def put(self: Any, value: Any) -> None:
        self._values[name] = value

    return property(get, put)


class _BuilderConfig(_Native):
    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._flags = {"TF32"}  # on by default
        self._previews: frozenset[str] = frozenset()
        self._profiles: list[Any] = []
        self._pools: dict[Any, int] = {}
        self._values: dict[str, Any] = {"DLA_core": -1}
        self._timings: Any = None

    def set_flag(self, flag: Any) -> None:
        assert isinstance(flag, self._trt.BuilderFlag)
        self._flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag.name)

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        assert isinstance(feature, self._trt.PreviewFeature)
        self._previews = (self._previews | {feature.name}) if enable else (self._previews - {feature.name})

    def get_flag(self, flag: Any) -> bool:
        return flag.name in self._flags

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[pool] = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._pools.get(pool, 1 << 33)

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        if serialized_timing_cache.startswith(b"damaged"):
            _tell(self._logger, "ERROR", "IBuilderConfig::createTimingCache: Error Code 4: Internal Error")
            return None
        return self._trt.ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache._data.startswith(b"foreign") and not ignore_mismatch:
            return False
        self._timings = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._timings

    builder_optimization_level = _value("builder_optimization_level")
    hardware_compatibility_level = _value("hardware_compatibility_level")
    profiling_verbosity = _value("profiling_verbosity")
    default_device_type = _value("default_device_type")
    DLA_core = _value("DLA_core")
    engine_capability = _value("engine_capability")
    int8_calibrator = _value("int8_calibrator")


class _OptimizationProfile(_Native):
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        if not len(min) == len(opt) == len(max):
            raise ValueError("Shape provided for min, opt, max should have the same number of dimensions")
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))

    def get_shape(self, input: str) -> list[tuple[int, ...]]:
        return list(self._shapes[input])

    def __bool__(self) -> bool:
        return True


class _Runtime(_Native):
    def __init__(self, logger: Any) -> None:
        # the real 8.6.0 ends the process here: a segmentation fault
        assert self._gpu.present, "trt.Runtime without a driver: the real library crashes"
        self._logger = logger
        self._host_code = False

    @property
    def engine_host_code_allowed(self) -> bool:
        return self._host_code

    @engine_host_code_allowed.setter
    def engine_host_code_allowed(self, value: bool) -> None:
        self._host_code = value

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        data = bytes(serialized_engine)
        where = "IRuntime::deserializeCudaEngine: Error Code"
        if not data.startswith(_MAGIC):
            text = "Serialization assertion magicTagRead == magicTag failed.Magic tag does not match"
            _tell(self._logger, "ERROR", f"{where} 1: Serialization ({text})")
            return None
        head, _, model = data.removeprefix(_MAGIC).partition(b"\n")
        facts = json.loads(head)
        own = self._trt.__version__
        if facts["version"] != own and not (facts["any_version"] and self._host_code):
            text = (
                "The engine plan file is not compatible with this version of TensorRT, expecting library version "
                f"{own} got {facts['version']}, please rebuild."
            )
            _tell(self._logger, "ERROR", f"{where} 6: API Usage Error ({text})")
            return None
        if tuple(facts["sm"]) != self._gpu.sm and not facts["any_gpu"]:
            built, here = (".".join(map(str, sm)) for sm in (facts["sm"], self._gpu.sm))
            text = (
                f"The engine plan file is generated on an incompatible device, expecting compute {here} got compute "
                f"{built}, please rebuild."
            )
            _tell(self._logger, "ERROR", f"{where} 6: API Usage Error ({text})")
            return None
        return self._trt.ICudaEngine(self._logger, model, facts)


class _Engine(_Native):
    def __init__(self, logger: Any, model: bytes, facts: Mapping[str, Any]) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._logger = logger
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        graph = onnx.load_from_string(model).graph
        self._dtypes, self._sides, self._given = {}, {}, {}
        for value in (*graph.input, *graph.output):
            kind = value.type.tensor_type
            named = _ONNX_TYPES[kind.elem_type]
            if named == "INT64" and "INT64" not in self._trt.DataType.__members__:
                named = "INT32"  # what the parsers before 10 make of it
            self._dtypes[value.name] = self._trt.DataType[named]
            self._given[value.name] = _NUMPY_TYPES[_ONNX_TYPES[kind.elem_type]]
            self._sides[value.name] = tuple(
                side.dim_value if side.HasField("dim_value") else -1 for side in kind.shape.dim
            )
        self._with_profile: weakref.WeakSet[Any] = weakref.WeakSet()  # contexts that it belongs to
        self._inputs = [value.name for value in graph.input]
        self._outputs = [value.name for value in graph.output]
        self._shapes = {name: [tuple(shape) for shape in three] for name, three in facts["shapes"].items()}
        self._shares_profile = facts["sharing"]
        if facts["static"]:
            self._sides |= {name: three[0] for name, three in self._shapes.items()}
            zeros = {name: np.zeros(self._sides[name], self._given[name]) for name in self._inputs}
            results = self._session.run(self._outputs, zeros)
            self._sides |= {name: tuple(result.shape) for name, result in zip(self._outputs, results, strict=True)}

    @property
    def num_io_tensors(self) -> int:
        return len(self._dtypes)

    @property
    def num_optimization_profiles(self) -> int:
        return 1

    @property
    def device_memory_size(self) -> int:
        return 1 << 20

    @property
    def device_memory_size_v2(self) -> int:
        return 1 << 20

    def get_tensor_name(self, index: int) -> str:
        return [*self._inputs, *self._outputs][index]

    def get_tensor_mode(self, name: str) -> Any:
        mode = self._trt.TensorIOMode
        return mode.INPUT if name in self._inputs else mode.OUTPUT if name in self._outputs else mode.NONE

    def get_tensor_dtype(self, name: str) -> Any:
        return self._dtypes[name]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._sides[name]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return list(self._shapes[name])

    def create_execution_context(self, strategy: Any = None) -> Any:
        if self._gpu.out_of_memory:
            _tell(self._logger, "ERROR", "IRuntime::createExecutionContext: Error Code 2: OutOfMemory")
            return None
        lent = strategy is not None and strategy.name == "USER_MANAGED"
        return self._trt.IExecutionContext(self._logger, self, needs_memory=lent)

    def create_execution_context_without_device_memory(self) -> Any:
        if (context := self.create_execution_context()) is not None:
            context._needs_memory = True
        return context


class _Context(_Native):
    def __init__(self, logger: Any, engine: Any, *, needs_memory: bool = False) -> None:
        self._logger, self._owner, self._needs_memory = logger, engine, needs_memory
        # below 9, the header says, the profile of an engine with dynamic shapes belongs to one context, unless a
        # preview feature of 8.6 was asked for
        modern = int(self._trt.__version__.split(".")[0]) >= 9
        self._may_share = modern or engine._shares_profile or all(-1 not in s for s in engine._sides.values())
        self._has_profile = modern or not engine._with_profile
        if self._has_profile:
            engine._with_profile.add(self)
        fixed = {name: engine._sides[name] for name in engine._inputs if -1 not in engine._sides[name]}
        self._inputs: dict[str, tuple[int, ...]] = fixed
        self._addresses: dict[str, int] = {}

    @property
    def engine(self) -> Any:
        return self._owner

    @property
    def active_optimization_profile(self) -> int:
        return 0 if self._has_profile else -1

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if profile_index != 0 or not (self._has_profile or self._may_share):
            raise RuntimeError("Error in set optimization profile async.")
        self._has_profile = True
        return True

    def _lent(self, memory: int) -> None:
        self._needs_memory = self._needs_memory and not memory

    device_memory = property(None, _lent)

    def set_device_memory(self, memory: int, size: int) -> None:
        if size >= self._owner.device_memory_size_v2:
            self._lent(memory)

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        low, _, high = self._owner._shapes[name]
        for index, side in enumerate(shape):
            if not low[index] <= side <= high[index]:
                text = (
                    f"Supplied binding dimension [{','.join(map(str, shape))}] for bindings[0] exceed min ~ max range "
                    f"at index {index}, maximum dimension in profile is {high[index]}, minimum dimension in profile is "
                    f"{low[index]}, but supplied dimension is {side}."
                )
                _tell(
                    self._logger,
                    "ERROR",
                    "IExecutionContext::setInputShape: Error Code 3: API Usage Error "
                    f"(Parameter check failed, condition: profileMaxDims.d[i] >= dimensions.d[i]. {text})",
                )
                return False
        self._inputs[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._owner._inputs:
            return self._inputs.get(name, self._owner._sides[name])
        if len(self._inputs) < len(self._owner._inputs):
            return self._owner._sides[name]  # type: ignore[no-any-return]
        zeros = {given: np.zeros(shape, self._owner._given[given]) for given, shape in self._inputs.items()}
        return tuple(self._owner._session.run([name], zeros)[0].shape)

    def infer_shapes(self) -> list[str]:
        return [name for name in self._owner._inputs if name not in self._inputs]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._owner._dtypes:
            return False
        self._addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self._has_profile, "the real library has undefined behaviour without a profile"
        assert not self._needs_memory, "the real library has undefined behaviour without device memory"
        missing = [name for name in self._owner._dtypes if not self._addresses.get(name)]
        if missing or self.infer_shapes():
            text = f"Neither address or allocator is set for output tensor {missing}. Call setOutputTensorAddress"
            _tell(self._logger, "ERROR", f"IExecutionContext::enqueueV3: Error Code 3: API Usage Error ({text})")
            return False
        shapes, addresses = dict(self._inputs), dict(self._addresses)

        def work() -> None:
            self._gpu.executions += 1
            given = {
                name: self._array(name, addresses[name], shape).astype(self._owner._given[name])
                for name, shape in shapes.items()
            }
            results = self._owner._session.run(self._owner._outputs, given)
            for name, result in zip(self._owner._outputs, results, strict=True):
                self._array(name, addresses[name], result.shape)[...] = result

        self._gpu.enqueue(int(stream_handle), work)
        return True

    def _numpy(self, name: str) -> Any:
        return _NUMPY_TYPES[self._owner._dtypes[name].name]

    def _array(self, name: str, address: int, shape: Sequence[int]) -> Any:
        dtype = np.dtype(self._numpy(name))
        count = int(np.prod(shape)) * dtype.itemsize
        raw = (ctypes.c_ubyte * count).from_address(address)
        return np.frombuffer(raw, dtype).reshape(shape)


_BEHAVIOURS: dict[str, type] = {
    "ILogger": _ILogger,
    "Logger": _Logger,
    "IHostMemory": _HostMemory,
    "Builder": _Builder,
    "ITensor": _Tensor,
    "ILayer": _Layer,
    "INetworkDefinition": _Network,
    "ParserError": _ParserError,
    "OnnxParser": _OnnxParser,
    "ITimingCache": _TimingCache,
    "IBuilderConfig": _BuilderConfig,
    "IOptimizationProfile": _OptimizationProfile,
    "Runtime": _Runtime,
    "ICudaEngine": _Engine,
    "IExecutionContext": _Context,
}

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "init_libnvinfer_plugins": lambda logger, namespace: True,
    "volume": lambda shape: int(np.prod(shape)),
    "nptype": lambda dtype: _NUMPY_TYPES[dtype.name],
}


def _no_invention() -> None:
    """Every public member above is in the list of some version."""
    every = [names(version) for version in VERSIONS]
    for name, behaviour in _BEHAVIOURS.items():
        known = frozenset().union(*(listed.members.get(name, frozenset()) for listed in every))
        invented = {member for member in vars(behaviour) if not member.startswith("_")} - known
        assert not invented, f"no version's {name} has {', '.join(sorted(invented))}"


_no_invention()
