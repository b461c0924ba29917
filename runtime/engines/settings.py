"""What the user may say about a TensorRT engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import UsageError

Size = tuple[int, int, int]  # (N, H, W) of frames: how many, and pixels


@dataclass(frozen=True)
class Profile:
    """The frames that one engine takes, each as (N, H, W): from ``smallest`` to ``largest``, fastest at ``usual``."""

    smallest: Size
    usual: Size
    largest: Size

    def __post_init__(self) -> None:
        for name, low, usual, high in zip("NHW", self.smallest, self.usual, self.largest, strict=True):
            if not 1 <= low <= usual <= high:
                raise UsageError(
                    f"the shapes of the engine must grow from smallest to usual to largest, but {name} is "
                    f"{low}, {usual}, {high}"
                )

    @classmethod
    def fixed(cls, count: int, height: int, width: int) -> Profile:
        """Frames of this one shape."""
        size = (count, height, width)
        return cls(size, size, size)

    def holds(self, count: int, height: int, width: int) -> bool:
        """Whether an engine of this profile takes such frames."""
        sides = zip(self.smallest, (count, height, width), self.largest, strict=True)
        return all(low <= side <= high for low, side, high in sides)


@dataclass(frozen=True)
class EngineSettings:
    """How an engine is built.

    ``profile``: the frames it takes; None for those of the first frames' shape, and another engine for another shape.
    ``workspace_mib``: most GPU memory for intermediate results while it is built and runs; None leaves it to TensorRT.
    ``optimization_level``: 0 (built fast) to 5 (runs fast), from TensorRT 8.6. ``timing_cache``: file that remembers
    how fast kernels are on this GPU; None for one in the cache's folder. ``dla_core``: the deep-learning accelerator
    of a Jetson to use, with what it cannot do on the GPU. ``version_compatible``: also runs on later TensorRT versions.
    ``hardware_compatible``: also runs on other GPUs from Ampere on.
    """

    profile: Profile | None = None
    workspace_mib: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    dla_core: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False


@dataclass(frozen=True)
class EngineOptions:
    """What a session is told that may run on TensorRT.

    ``settings``: how engines are built. ``folder``: where they are kept; None for the bundle's own, else the user's.
    ``progress``: told what takes long.
    """

    settings: EngineSettings = EngineSettings()
    folder: Path | None = None
    progress: Callable[[str], None] = lambda text: None


DEFAULT_ENGINES = EngineOptions()
