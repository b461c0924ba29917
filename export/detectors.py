"""The shipped face detector: the net, and the bundle made of it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from export.bundle import write_manifest
from export.onnx_graph import canonical, quiet
from runtime.errors import NotMetError
from runtime.frames import Frame, SizeRule
from runtime.manifest import HEADS, STRIDES, Artifact, Geometry, Manifest, Port, Weights


def _block(before: int, after: int, stride: int = 1, groups: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


def _separable(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_block(before, before, stride, groups=before), _block(before, after, kernel=1))


class FaceNet(nn.Module):
    """About 100 k parameters: plain convolutions where pictures are large, depthwise ones where they are small, a
    pyramid from stride 32 down to 8 by nearest enlargement and addition.

    The heads are those of YuNet: of every cell of strides 8, 16 and 32 ``cls`` and ``obj`` (score = sqrt(cls * obj)),
    ``bbox`` (offset of the centre from the cell's corner in strides, logarithm of the size in strides), and ``kps``
    (offsets of five landmarks in strides).
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.stem = nn.Sequential(_block(3, 16, 2), _block(16, 24, 2), _separable(24, 24))
        self.stage8 = nn.Sequential(_block(24, 48, 2), _block(48, 48), _separable(48, 48), _separable(48, 48))
        self.stage16 = nn.Sequential(_separable(48, 64, 2), _separable(64, 64), _separable(64, 64))
        self.stage32 = nn.Sequential(_separable(64, 96, 2), _separable(96, 96), _separable(96, 96))
        self.lateral = nn.ModuleDict(
            {str(s): _block(c, width, kernel=1) for s, c in zip(STRIDES, (48, 64, 96), strict=True)}
        )
        self.mix = nn.ModuleDict({str(s): _separable(width, width) for s in STRIDES})
        self.out = nn.ModuleDict({str(s): nn.Conv2d(width, sum(HEADS.values()), 1) for s in STRIDES})
        for layer in self.out.values():
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
            nn.init.constant_(layer.bias[:2], -3.0)  # faces are rare

    def heads(self, frame: Tensor) -> dict[str, Tensor]:
        """Of ``frame``, uint8 (N, H, W, 3) BGR with sides that are multiples of 32, the heads before the sigmoid: name
        and stride to float32 (N, cells, numbers), cells row by row."""
        x = frame.permute(0, 3, 1, 2).float() / 128 - 1
        c8 = self.stage8(self.stem(x))
        c16 = self.stage16(c8)
        c32 = self.stage32(c16)
        p32 = self.lateral["32"](c32)
        p16 = self.lateral["16"](c16) + functional.interpolate(p32, scale_factor=2.0, mode="nearest")
        p8 = self.lateral["8"](c8) + functional.interpolate(p16, scale_factor=2.0, mode="nearest")
        result: dict[str, Tensor] = {}
        for stride, level in zip(STRIDES, (p8, p16, p32), strict=True):
            cells = self.out[str(stride)](self.mix[str(stride)](level)).flatten(2).transpose(1, 2)
            parts = torch.split(cells, list(HEADS.values()), dim=2)
            result |= {f"{name}_{stride}": part for name, part in zip(HEADS, parts, strict=True)}
        return result

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        """The heads as the bundle gives them, ``cls`` and ``obj`` as 0..1, in the order of :func:`head_names`."""
        heads = self.heads(frame)
        return tuple(heads[name].sigmoid() if name.startswith(("cls", "obj")) else heads[name] for name in head_names())


def head_names() -> list[str]:
    return [f"{name}_{stride}" for name in HEADS for stride in STRIDES]


def detector_graph(net: FaceNet) -> onnx.ModelProto:
    """The canonical graph (opset 17, IR 8) with norms folded: ``frame`` to the twelve heads, for any sizes that are
    multiples of 32."""
    n, h, w = (torch.export.Dim(name) for name in ("n", "h", "w"))
    with quiet():
        program = torch.onnx.export(
            net.eval(),
            (torch.zeros((2, 96, 128, 3), dtype=torch.uint8),),
            dynamo=True,
            verbose=False,
            external_data=False,
            opset_version=18,
            input_names=["frame"],
            output_names=head_names(),
            dynamic_shapes=({0: n, 1: 32 * h, 2: 32 * w},),
        )
    assert program is not None
    model = canonical(program.model_proto)
    _name_dimensions(model.graph.input[0], ("n", "h", "w", 3))
    for output in model.graph.output:
        kind, stride = output.name.split("_")
        _name_dimensions(output, ("n", f"a{stride}", HEADS[kind]))
    onnx.checker.check_model(model, full_check=True)
    return model


def _name_dimensions(port: onnx.ValueInfoProto, names: tuple[str | int, ...]) -> None:
    sides = port.type.tensor_type.shape.dim
    for side, name in zip(sides, names, strict=True):
        side.Clear()
        if isinstance(name, int):
            side.dim_value = name
        else:
            side.dim_param = name


#: How far a head of the exported graph may be from PyTorch's, both in float32.
MOST_DIFFERENCE = 1e-3


def write_detector_bundle(weights: Path, folder: Path, *, trained_on: str, frames: Sequence[Frame]) -> dict[str, float]:
    """Make the detector's bundle from its weights and compare it with PyTorch.

    Args:
        weights: ``.safetensors`` file of a :class:`FaceNet`.
        folder: of the bundle; replaced where it is there.
        trained_on: for the manifest.
        frames: uint8 (H, W, 3) BGR with sides that are multiples of 32, to compare on.

    Returns the largest difference of a head from PyTorch's by engine. Raises :class:`NotMetError` where it passes
    MOST_DIFFERENCE.
    """
    net = FaceNet()
    net.load_state_dict(load_file(weights))
    model = detector_graph(net).SerializeToString()
    differences = dict.fromkeys(("onnxruntime", "openvino"), 0.0)
    for frame in frames:
        with torch.no_grad():
            wanted = dict(
                zip(head_names(), (part.numpy() for part in net.eval()(torch.from_numpy(frame[None]))), strict=True)
            )
        for name, heads in _heads_by_engine(model, frame).items():
            most = max(float(np.abs(heads[key] - wanted[key]).max()) for key in wanted)
            differences[name] = max(differences[name], most)
    for name, most in differences.items():
        if most > MOST_DIFFERENCE:
            raise NotMetError(f"the detector's heads differ from PyTorch's by {most:.2g} on {name}")
    ports = tuple(
        Port(name, "head", "float32", ("n", f"a{name.split('_')[1]}", HEADS[name.split("_")[0]]))
        for name in head_names()
    )
    figures = {f"{name}-fp32": {"max_abs_head": most} for name, most in differences.items()}
    manifest = Manifest(
        name="face-detector",
        task="face-detection",
        generator="face-net",
        weights=Weights(hashlib.sha256(weights.read_bytes()).hexdigest(), "Apache-2.0", trained_on),
        inputs=(Port("frame", "frame", "uint8", ("n", "h", "w", 3)),),
        outputs=ports,
        geometry=Geometry(1, SizeRule(32, 32), 0, False, None),
        artifacts={"fp32": Artifact("model.fp32.onnx", hashlib.sha256(model).hexdigest(), parity=figures)},
        limits={},
        golden=(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.fp32.onnx").write_bytes(model)
    write_manifest(folder, manifest)
    return differences


def _heads_by_engine(model: bytes, frame: Frame) -> dict[str, dict[str, NDArray[np.float32]]]:
    import onnxruntime
    import openvino

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = head_names()
    result = {"onnxruntime": dict(zip(names, session.run(names, {"frame": frame[None]}), strict=True))}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(io.BytesIO(model)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled([np.ascontiguousarray(frame[None])])
    result["openvino"] = {name: np.asarray(found[name]) for name in names}
    return result
