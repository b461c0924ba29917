"""What the face generator's training measures pictures with: features of VGG-19, an embedder of faces, a discriminator.

None of these is shipped, and of the face the shipped net itself only ever sees the thumbnail.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from runtime.faces import sanitise

FACE = 112  # pixels of a face for recognition
#: Rows and columns of a wide crop that face recognition sees.
_INNER = slice(
    (sanitise.SIDE - round(sanitise.SIDE * sanitise.WIDE)) // 2,
    (sanitise.SIDE + round(sanitise.SIDE * sanitise.WIDE)) // 2,
)


class Vgg(nn.Module):
    """``relu1_1`` and ``relu2_1`` of a normalised VGG-19 (assets ``vgg19_normalised``), for RGB 0..1.

    Perceptual distance: Johnson et al., Perceptual losses for real-time style transfer, ECCV 2016.
    """

    def __init__(self, assets: Path) -> None:
        super().__init__()
        state = torch.load(
            assets / "weights/vgg19_normalised/vgg_normalised_conv2_1.pth", weights_only=True, map_location="cpu"
        )
        self.enter = nn.Conv2d(3, 3, 1)
        self.convolutions = nn.ModuleList([nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 128, 3)])
        for conv, place in zip((self.enter, *self.convolutions), (0, 2, 5, 9), strict=True):
            conv.load_state_dict({kind: state[f"{place}.{kind}"] for kind in ("weight", "bias")})
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        features = self.enter(image)
        found = []
        for place, conv in enumerate(self.convolutions):
            if place == 2:
                features = functional.max_pool2d(features, 2)
            features = torch.relu(conv(functional.pad(features, (1, 1, 1, 1), mode="replicate")))
            if place != 1:
                found.append(features)
        return found


class FaceEmbedder(nn.Module):
    """MobileFaceNet (assets ``mobilefacenet``): faces ``(N, 3, 112, 112) RGB 0..1`` to ``(N, 128)`` of length 1.

    Runs the nodes of the published ONNX graph, of which there are five kinds.
    """

    def __init__(self, assets: Path) -> None:
        super().__init__()
        import onnx
        from onnx import numpy_helper

        graph = onnx.load(assets / "weights/mobilefacenet/MobileFaceNet.onnx").graph
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.nodes: list[tuple[str, list[str], str, str]] = []
        self.layers = nn.ModuleDict()
        self.input = graph.input[0].name
        for index, node in enumerate(graph.node):
            if node.op_type == "Constant":
                continue
            if node.op_type not in ("Conv", "Clip", "Relu", "Add", "Reshape"):
                raise ValueError(f"the embedder has a node {node.op_type}, which is not known here")
            if node.op_type == "Conv":
                found = {attribute.name: attribute for attribute in node.attribute}
                weight = torch.from_numpy(weights[node.input[1]].copy())
                outputs, inputs = weight.shape[:2]
                groups = found["group"].i
                stride, padding = tuple(found["strides"].ints), tuple(found["pads"].ints)[:2]
                conv = nn.Conv2d(inputs * groups, outputs, tuple(weight.shape[2:]), stride, padding, groups=groups)
                conv.weight.data, conv.bias.data = weight, torch.from_numpy(weights[node.input[2]].copy())
                self.layers[str(index)] = conv
            self.nodes.append((node.op_type, list(node.input), node.output[0], str(index)))
        self.requires_grad_(False)

    def forward(self, faces: Tensor) -> Tensor:
        values = {self.input: (faces * 255 - 127.5) / 128}
        result = faces
        for kind, inputs, output, index in self.nodes:
            first = values[inputs[0]]
            if kind == "Conv":
                result = self.layers[index](first)
            elif kind == "Clip":
                result = functional.relu6(first)
            elif kind == "Relu":
                result = torch.relu(first)
            elif kind == "Add":
                result = first + values[inputs[1]]
            else:
                result = first.flatten(1)
            values[output] = result
        return functional.normalize(result.float(), dim=1)


def recognised_part(crops: Tensor) -> Tensor:
    """What face recognition sees of wide crops (N, 3, SIDE, SIDE): (N, 3, 112, 112)."""
    inner = crops[:, :, _INNER, _INNER]
    return functional.interpolate(inner, size=(FACE, FACE), mode="bilinear", align_corners=False)


def shaken(faces: Tensor, generator: torch.Generator) -> Tensor:
    """``faces`` each turned, scaled, shifted and blurred a little at random.

    Expectation over transformations (Athalye et al., ICML 2018): without it the generator learns patterns that fool
    this one embedder and nobody else.
    """
    count = len(faces)
    angle, size = (torch.randn(count, generator=generator) * spread for spread in (0.07, 0.04))
    shift = torch.randn(count, 2, generator=generator) * 0.025
    cosine, sine = torch.cos(angle) * (1 + size), torch.sin(angle) * (1 + size)
    matrix = torch.stack((torch.stack((cosine, -sine, shift[:, 0]), 1), torch.stack((sine, cosine, shift[:, 1]), 1)), 1)
    grid = functional.affine_grid(matrix.to(faces), list(faces.shape), align_corners=False)
    moved = functional.grid_sample(faces, grid, padding_mode="border", align_corners=False)
    soft = functional.avg_pool2d(functional.pad(moved, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = torch.rand(count, 1, 1, 1, generator=generator).to(faces)
    return moved + share * (soft - moved)


class Discriminator(nn.Module):
    """A small PatchGAN (Isola et al., CVPR 2017) with spectral norm (Miyato et al., ICLR 2018) for RGB 0..1."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 3 * width)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1)))

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image * 2 - 1)
