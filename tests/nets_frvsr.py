"""Tiny FRVSR, TecoGAN and EGVSR generators under their publishers' names, and their publishers' way to run them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from published import Published, convolution, randomised
from torch import Tensor, nn
from torch.nn import functional

from runtime.frames import Frames

PUBLISHED_WIDTHS = (32, 64, 128, 256, 128, 64, 32)
TINY_WIDTHS = (4, 6, 8, 10, 6, 5, 4)


class Cubic(nn.Module):
    """Rows first, columns then; the pixel ``i`` of the result lies at ``i / scale`` of the input."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        rows = []
        for step in range(scale):
            t = step / scale
            distances = (1 + t, t, 1 - t, 2 - t)
            rows.append([keys_cubic(distance) for distance in distances])
        self.register_buffer("kernels", torch.tensor(rows))

    def forward(self, image: Tensor) -> Tensor:
        for axis in (2, 3):
            size = image.shape[axis]
            places = torch.arange(size * self.scale) // self.scale
            steps = torch.arange(size * self.scale) % self.scale
            shape = [1, 1, 1, 1]
            shape[axis] = -1
            image = sum(
                self.kernels[steps, tap].reshape(shape)
                * image.index_select(axis, (places + tap - 1).clamp(0, size - 1))
                for tap in range(4)
            )
        return image


def keys_cubic(x: float, a: float = -0.75) -> float:
    """The cubic convolution kernel of Keys (1981)."""
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


class Flow(nn.Module):
    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        a, b, c, d, e, f, g = widths

        def stage(inputs: int, outputs: int, *end: nn.Module) -> nn.Sequential:
            return nn.Sequential(
                convolution(inputs, outputs), nn.LeakyReLU(0.2), convolution(outputs, outputs), nn.LeakyReLU(0.2), *end
            )

        self.encoder1 = stage(6, a, nn.MaxPool2d(2, 2))
        self.encoder2 = stage(a, b, nn.MaxPool2d(2, 2))
        self.encoder3 = stage(b, c, nn.MaxPool2d(2, 2))
        self.decoder1, self.decoder2, self.decoder3 = stage(c, d), stage(d, e), stage(e, f)
        self.flow = nn.Sequential(convolution(f, g), nn.LeakyReLU(0.2), convolution(g, 2))

    def forward(self, current: Tensor, before: Tensor) -> Tensor:
        out = self.encoder3(self.encoder2(self.encoder1(torch.cat([current, before], 1))))
        for decoder in (self.decoder1, self.decoder2, self.decoder3):
            height, width = decoder(out).shape[2:]
            out = functional.interpolate(decoder(out), (2 * height, 2 * width), mode="bilinear", align_corners=False)
        return torch.tanh(self.flow(out)) * 24


class FrvsrBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(convolution(width, width), nn.ReLU(), convolution(width, width))

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image) + image


class Reconstruction(nn.Module):
    def __init__(self, width: int, depth: int, scale: int, enlarge: nn.Module | None, *, egvsr: bool) -> None:
        super().__init__()
        self.scale, self.egvsr = scale, egvsr
        self.conv_in = nn.Sequential(convolution(3 + 3 * scale * scale, width), nn.ReLU())
        self.resblocks = nn.Sequential(*[FrvsrBlock(width) for _ in range(depth)])
        up = [nn.ConvTranspose2d(width, width, 3, 2, 1, output_padding=1), nn.ReLU()]
        if scale == 4:
            up += [nn.ConvTranspose2d(width, width, 3, 2, 1, output_padding=1), nn.ReLU()]
        self.conv_up = nn.Sequential(*up)
        self.conv_out = convolution(width // 16 if egvsr else width, 3)
        if enlarge is not None:
            self.upsample_func = enlarge

    def forward(self, frame: Tensor, cells: Tensor) -> Tensor:
        out = self.resblocks(self.conv_in(torch.cat([frame, cells], 1)))
        if self.egvsr:
            return self.conv_out(functional.pixel_shuffle(out, 4).clamp(min=0))
        out = self.conv_out(self.conv_up(out))
        return out + enlarged(frame, self.scale, getattr(self, "upsample_func", None))


def enlarged(image: Tensor, scale: int, cubic: nn.Module | None) -> Tensor:
    if cubic is not None:
        return cubic(image)
    size = (image.shape[2] * scale, image.shape[3] * scale)
    return functional.interpolate(image, size, mode="bilinear", align_corners=False)


def by_pixels(image: Tensor, flow: Tensor) -> Tensor:
    """``image`` looked up at each place plus ``flow`` (right, down; pixels), places outside at the border."""
    height, width = image.shape[2:]
    x = (torch.arange(width) + flow[:, 0]).clamp(0, width - 1)
    y = (torch.arange(height)[:, None] + flow[:, 1]).clamp(0, height - 1)
    result = torch.zeros_like(image)
    left, top = x.floor().clamp(max=width - 2), y.floor().clamp(max=height - 2)
    for down in (0, 1):
        for right in (0, 1):
            weight = (1 - (x - left - right).abs()) * (1 - (y - top - down).abs())
            places = ((top + down) * width + left + right).long().flatten(1)[:, None].expand(-1, image.shape[1], -1)
            result += weight[:, None] * image.flatten(2).gather(2, places).reshape(image.shape)
    return result


class Frnet(nn.Module):
    """``FRNet`` of skycrapers/TecoGAN-PyTorch, or of Thmen/EGVSR; called as its ``step``."""

    def __init__(
        self, widths: tuple[int, ...], width: int, depth: int, scale: int, *, cubic: bool, egvsr: bool = False
    ) -> None:
        super().__init__()
        self.scale = scale
        enlarge = Cubic(scale) if cubic else None
        if enlarge is not None:
            self.upsample_func = enlarge
        self.fnet = Flow(widths)
        self.srnet = Reconstruction(width, depth, scale, enlarge, egvsr=egvsr)

    def forward(self, frame: Tensor, previous: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        s, cubic = self.scale, getattr(self, "upsample_func", None)
        flow = enlarged(self.fnet(frame, previous), s, cubic) * s
        moved = by_pixels(before, flow)
        cells = torch.cat([moved[:, :, dy::s, dx::s] for dy in range(s) for dx in range(s)], 1)
        picture = self.srnet(frame, cells)
        return picture, picture


@torch.no_grad()
def published_run(net: Frnet, images: Frames) -> Frames:
    """As ``infer_sequence`` does it, for consecutive ``uint8 (T, H, W, 3) BGR``: from a black frame and picture."""
    planes = torch.from_numpy(np.ascontiguousarray(images[..., ::-1])).permute(0, 3, 1, 2).float() / 255
    before, frame_before, outputs = None, torch.zeros_like(planes[:1]), []
    for index in range(len(planes)):
        frame = planes[index : index + 1]
        if before is None:
            before = torch.zeros(1, 3, frame.shape[2] * net.scale, frame.shape[3] * net.scale)
        before, _ = net(frame, frame_before, before)
        frame_before = frame
        pixels = np.clip(np.round(before[0].permute(1, 2, 0).numpy() * 255), 0, 255)
        outputs.append(pixels.astype(np.uint8)[..., ::-1])
    return np.stack(outputs)


def settled(net: nn.Module) -> None:
    """Motion of a few pixels, a bounded state, and a picture that depends on it."""
    assert isinstance(net, Frnet)
    net.fnet.flow[2].weight.mul_(0.5)
    net.fnet.flow[2].bias.mul_(0.2)
    net.srnet.conv_in[0].weight[:, 3:].mul_(2.0)
    if net.srnet.egvsr:
        net.srnet.conv_out.bias.add_(0.4)


def _others(scale: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    def others(image: Tensor) -> tuple[Tensor, ...]:
        size = (image.shape[2] * scale, image.shape[3] * scale)
        before = functional.interpolate(image.flip(2), size, mode="bicubic", align_corners=False)
        return image.roll(1, 3), before * 1.2 - 0.1

    return others


def _case(id: str, scale: int, layout: str, degradation: str, width: int = 8) -> Published:
    return Published(
        id,
        "frvsr",
        lambda: Frnet(TINY_WIDTHS, width, 2, scale, cubic=degradation == "BD", egvsr=layout == "EGVSR"),
        scale,
        {"layout": layout, "width": width, "depth": 2, "degradation": degradation},
        unread=r"srnet\.conv_up\..*" if layout == "EGVSR" else "",
        telling=r"fnet\.(encoder1\.0|flow\.2)\.weight|srnet\.(conv_in\.0|resblocks\.0\.conv\.0|conv_out)\.weight",
        settle=settled,
        others=_others(scale),
    )


PUBLISHED_FRVSR = (
    _case("frvsr-bd-x4", 4, "TecoGAN", "BD"),
    _case("frvsr-bi-x4", 4, "TecoGAN", "BI"),
    _case("frvsr-bd-x2", 2, "TecoGAN", "BD"),
    _case("egvsr-bd-x4", 4, "EGVSR", "BD", width=32),
)


def frvsr(id: str = "frvsr-bd-x4") -> Frnet:
    net = next(case for case in PUBLISHED_FRVSR if case.id == id).net()
    assert isinstance(net, Frnet)
    return net


def full_size(*, cubic: bool, depth: int = 10, scale: int = 4) -> Frnet:
    """As published: 64 channels, 10 residual blocks (16 for TecoGAN+)."""
    net = randomised(Frnet(PUBLISHED_WIDTHS, 64, depth, scale, cubic=cubic))
    assert isinstance(net, Frnet)
    return net
