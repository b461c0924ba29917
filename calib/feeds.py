"""What goes into a graph while it is calibrated: frames, states that are fed back, and condition codes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.codes import Code
from runtime.frames import Frame
from runtime.manifest import Manifest
from runtime.sessions.codes import code_ports

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class StateRule:
    """How a state input is filled: ``source`` is the output, or the input, of the step before that becomes it.

    At the start of a run it is the current ``frame``, or zeros: of ``channels`` at ``scale`` times the frame's size, or
    where ``channels`` is 0, a black frame.
    """

    name: str
    source: str
    initial: str = "zeros"
    channels: int = 0
    scale: int = 1


@dataclass(frozen=True)
class CodeRule:
    """A condition input: codes that ``code`` allows are drawn, another for each frame.

    Where ``is_map`` it is ``float32 (1, size, H, W)`` of the frame's size, every second one the same everywhere and the
    others of several regions; else ``float32 (1, size)``.
    """

    name: str
    code: Code
    is_map: bool = False

    def drawn(self, seed: str, height: int, width: int) -> NDArray[np.float32]:
        """``(size,)``, or of a map ``(size, height, width)``: for a seed always the same."""
        digest = hashlib.sha256(f"{seed} {self.name}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        if not self.is_map:
            return self.code.drawn(rng)
        if digest[8] % 2:
            return self.code.drawn_map(rng, height, width)
        return np.tile(self.code.drawn(rng)[:, None, None], (1, height, width))


def code_rules(manifest: Manifest) -> tuple[CodeRule, ...]:
    """For the codes of a manifest. Raises :class:`GenedgeError` where it does not say what one takes."""
    rules = ((port, port.code) for port in code_ports(manifest))
    return tuple(CodeRule(port.name, code, port.is_map) for port, code in rules if code is not None)


@dataclass
class Feed:
    """The inputs of one step. ``accept`` takes its outputs, for states of the next one."""

    inputs: Arrays
    last_of_run: bool
    _carry: Arrays = field(default_factory=dict)
    _rules: tuple[StateRule, ...] = ()

    def accept(self, outputs: Mapping[str, NDArray[Any]]) -> None:
        for rule in self._rules:
            self._carry[rule.name] = outputs[rule.source] if rule.source in outputs else self.inputs[rule.source]


@dataclass(frozen=True)
class Feeds:
    """Runs of consecutive frames ``uint8 (H, W, 3) BGR``; a net without state has runs of one frame.

    ``frames`` may decode lazily: a frame is asked for when its step comes. ``digest`` names the material.
    """

    frames: Sequence[Frame]
    digest: str
    runs: tuple[tuple[int, ...], ...] = ()
    states: tuple[StateRule, ...] = ()
    codes: tuple[CodeRule, ...] = ()
    frame_input: str = "frame"
    seed: int = 0

    def __len__(self) -> int:
        return sum(len(run) for run in self.all_runs())

    @property
    def identity(self) -> str:
        """Names everything that goes in: the material, and the rules by which steps are made of it."""
        return f"{self.digest} {self.all_runs()} {self.states} {self.codes} {self.frame_input} {self.seed}"

    def all_runs(self) -> tuple[tuple[int, ...], ...]:
        """Frame indices of every run."""
        return self.runs or tuple((index,) for index in range(len(self.frames)))

    def steps(self, skip: int = 0) -> Iterator[tuple[int, Feed]]:
        """(number, feed) of every step after the first ``skip``, which must end a run (``ValueError`` else)."""
        step = 0
        for run in self.all_runs():
            if step + len(run) <= skip:
                step += len(run)
                continue
            if step < skip:
                raise ValueError(f"step {skip} is in the middle of a run, whose states are not known")
            carry: Arrays = {}
            for place, index in enumerate(run):
                frame = np.ascontiguousarray(self.frames[index])[None]
                inputs: Arrays = {self.frame_input: frame}
                for rule in self.states:
                    inputs[rule.name] = carry[rule.name] if rule.name in carry else _initial(rule, frame)
                for code in self.codes:
                    inputs[code.name] = code.drawn(f"{self.seed} {step}", *frame.shape[1:3])[None]
                feed = Feed(inputs, place == len(run) - 1, carry, self.states)
                yield step, feed
                step += 1


def _initial(rule: StateRule, frame: NDArray[Any]) -> NDArray[Any]:
    if rule.initial == "frame":
        return frame
    if not rule.channels:
        return np.zeros_like(frame)
    _, height, width, _ = frame.shape
    return np.zeros((1, rule.channels, height * rule.scale, width * rule.scale), dtype=np.float32)
