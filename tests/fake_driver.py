"""A stand-in for NVIDIA's libcuda, which answers as the driver API does."""

from __future__ import annotations

from typing import Any

from runtime.nvidia import NO_DEVICE, SM_MAJOR, SM_MINOR, Gpu

H200 = Gpu("NVIDIA H200", (9, 0), 150_000_000_000)
ORIN = Gpu("Orin", (8, 7), 16_000_000_000)


class FakeDriver:
    """``cuda`` as the driver counts (12040 is 12.4); ``fails`` is what cuInit answers."""

    def __init__(self, gpus: tuple[Gpu, ...] = (H200,), cuda: int = 13000, fails: int = 0) -> None:
        self._gpus, self._cuda, self._fails = gpus, cuda, fails or (0 if gpus else NO_DEVICE)

    def cuDriverGetVersion(self, to: Any) -> int:  # noqa: N802 - the driver's own names
        to._obj.value = self._cuda
        return 0

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self._fails

    def cuDeviceGetCount(self, to: Any) -> int:  # noqa: N802
        to._obj.value = len(self._gpus)
        return 0

    def cuDeviceGet(self, to: Any, index: int) -> int:  # noqa: N802
        to._obj.value = index
        return 0

    def cuDeviceGetName(self, to: Any, room: int, device: Any) -> int:  # noqa: N802
        to.value = self._gpus[device.value].name.encode()[: room - 1]
        return 0

    def cuDeviceTotalMem_v2(self, to: Any, device: Any) -> int:  # noqa: N802
        to._obj.value = self._gpus[device.value].memory_bytes
        return 0

    def cuDeviceGetAttribute(self, to: Any, attribute: int, device: Any) -> int:  # noqa: N802
        major, minor = self._gpus[device.value].sm
        to._obj.value = {SM_MAJOR: major, SM_MINOR: minor}[attribute]
        return 0

    def cuGetErrorString(self, code: int, to: Any) -> int:  # noqa: N802
        if code != 803:
            return 1  # CUDA_ERROR_INVALID_VALUE, and nothing is written
        to._obj.value = b"system has unsupported display driver / cuda driver combination"
        return 0
