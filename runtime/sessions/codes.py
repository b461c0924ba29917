"""The code inputs of a graph: what they hold now, and the arrays that an engine reads."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from runtime.codes import MAX_MAP_BYTES, Code, Numbers
from runtime.errors import GenedgeError, UsageError
from runtime.manifest import Manifest, Port

Held = Mapping[str, Numbers]  # code's name -> its numbers, (size,), or of a map (size, H, W); never written


class CodeInputs:
    """Values for the codes of a graph, the default until others are set. Safe between threads.

    ``codes`` are the rules by the ports' names, ``maps`` those among them that may differ from pixel to pixel.
    """

    def __init__(self, codes: Mapping[str, Code], maps: Iterable[str] = ()) -> None:
        self.codes, self.maps = MappingProxyType(dict(codes)), frozenset(maps)
        self._lock = threading.Lock()
        self._now: Held = self._defaults()
        self._made: tuple[Held, tuple[int, ...], Mapping[str, Numbers]] | None = None

    @classmethod
    def of(cls, ports: Sequence[Port]) -> CodeInputs:
        """For ports that all have a rule."""
        rules = {port.name: port.code for port in ports if port.code is not None}
        return cls(rules, (port.name for port in ports if port.is_map))

    @property
    def now(self) -> Held:
        """What is set. It is replaced, not changed, so whoever holds it keeps these values."""
        return self._now

    def set(self, name: str, values: ArrayLike) -> None:
        """See :meth:`runtime.sessions.base.Session.set_code`."""
        checked = self._checked(name, values)
        with self._lock:
            self._now = MappingProxyType({**self._now, name: checked})

    def replace(self, values: Mapping[str, ArrayLike]) -> None:
        """See :meth:`runtime.sessions.base.Session.set_codes`."""
        checked = {name: self._checked(name, each) for name, each in values.items()}
        with self._lock:
            self._now = MappingProxyType({**self._defaults(), **checked})

    def arrays(self, frames: tuple[int, ...]) -> Mapping[str, Numbers]:
        """What an engine reads for frames of shape (N, H, W, 3): C-contiguous ``float32 (N, size)``, or of a map
        ``(N, size, H, W)``. They are made once for each change, and never written to afterwards.

        Raises :class:`UsageError` where a map has another size than the frames.
        """
        with self._lock:
            now, made = self._now, self._made
            if made is not None and made[0] is now and made[1] == frames:
                return made[2]
            arrays = {name: self._array(name, values, frames) for name, values in now.items()}
            self._made = now, frames, arrays
            return arrays

    def _array(self, name: str, values: Numbers, frames: tuple[int, ...]) -> Numbers:
        count, height, width = frames[:3]
        shape: tuple[int, ...] = (count, len(values))
        if name in self.maps:
            shape = (*shape, height, width)
            if values.ndim == 1:
                values = values[:, None, None]
            else:
                check_map(name, values, height, width)
            if 4 * count * len(values) * height * width > MAX_MAP_BYTES:
                raise GenedgeError(f"frames of {width}x{height} need a map of more than {MAX_MAP_BYTES >> 30} GiB")
        return np.array(np.broadcast_to(values, shape), order="C")

    def _defaults(self) -> dict[str, Numbers]:
        return {name: np.array(code.default, dtype=np.float32) for name, code in self.codes.items()}

    def _checked(self, name: str, values: ArrayLike) -> Numbers:
        if name not in self.codes:
            known = f"only {', '.join(self.codes)}" if self.codes else "and none at all"
            raise UsageError(f"this generator has no code called {name[:80]!r}, {known}")
        try:
            return self.codes[name].checked(np.asarray(values), is_map=name in self.maps)
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from None


NO_CODES = CodeInputs({})


def check_map(name: str, values: Numbers, height: int, width: int) -> None:
    """Raise :class:`UsageError` where a map ``(size, H, W)`` has another size than the frames."""
    if values.shape[1:] != (height, width):
        raise UsageError(
            f"the map for {name} has {values.shape[2]}x{values.shape[1]} pixels, but the frames have {width}x{height}"
        )


def code_ports(manifest: Manifest) -> tuple[Port, ...]:
    """The code inputs of a manifest. Raises :class:`GenedgeError` where it does not say what one takes."""
    for port in manifest.codes:
        if port.code is None:
            raise GenedgeError(
                f"the manifest of {manifest.name} does not say what the code {port.name} takes: build the bundle again"
            )
    return manifest.codes
