"""What `export inspect` says about a checkpoint: family, ranges, sizes, cost, reach, states, conditions, options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from export.checkpoint import Checkpoint
from export.frame_io import condition_tensor, frame_graph, measured_halo
from export.generators import GENERATORS
from export.generators.base import Generator, LoadedGenerator, MismatchError, Option, State
from export.generators.not_generators import reason
from export.generators.search import find, nearest
from runtime.errors import CheckpointError, printable
from runtime.report import shortened

FRAMES = ((360, 640), (720, 1280))  # (height, width) that MACs are counted for
#: Multiply-accumulates that measuring the reach may take: about ten seconds on one core of a CPU.
BUDGET = 3e11
_PROBES = 16  # runs of a whole frame for one radius: more than measured_halo takes, so the estimate is a bound
_RADII = (24, 48, 96, 192, 384)  # pixels; measured_halo takes smaller steps and narrower frames
_MEGAPIXEL = 1e6
_SHOWN = 12  # names in a list


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates for one frame of ``height x width`` pixels, and what comes out of it."""

    height: int
    width: int
    macs: int
    output_pixels: int

    @property
    def per_megapixel(self) -> float:
        """Multiply-accumulates for a million pixels of output."""
        return self.macs / self.output_pixels * _MEGAPIXEL

    def to_dict(self) -> dict[str, Any]:
        return {
            "height": self.height,
            "width": self.width,
            "macs": self.macs,
            "macs_per_output_megapixel": round(self.per_megapixel),
        }


@dataclass(frozen=True)
class Facts:
    """A loaded generator as `inspect` shows it.

    ``costs`` is empty where the net cannot be counted. ``halo`` is how many input pixels away something changes an
    output pixel; where it is None, ``reach`` says why.
    """

    loaded: LoadedGenerator
    title: str
    options: tuple[Option, ...]
    parameters: int
    costs: tuple[Cost, ...]
    halo: int | None
    reach: str

    def lines(self) -> list[str]:
        """For people."""
        loaded = self.loaded
        facts = ", ".join(f"{key} {value}" for key, value in loaded.facts.items())
        lines = [
            f"family: {loaded.family}{f' ({self.title})' if self.title else ''}",
            f"scale {loaded.scale}" + (f", {facts}" if facts else ""),
            f"task: {loaded.task}",
            f"parameters: {self.parameters:,}",
            f"frame: RGB {_span(loaded.input_range)} in, RGB {_span(loaded.output_range)} out",
            f"sizes: {_sizes(loaded)}",
        ]
        if self.costs:
            first = self.costs[0]
            frames = ", ".join(f"{_giga(cost.macs)} for {cost.width}x{cost.height}" for cost in self.costs)
            lines.append(f"MACs: {frames}; {_giga(first.per_megapixel)} per megapixel of output")
        else:
            lines.append("MACs: not counted (an operation of this net cannot be)")
        lines.append(f"reach: {self.reach}")
        for state in loaded.states:
            what = "the frame before" if state.output is None else f"{state.channels} channels, fed by {state.output}"
            lines.append(f"state: {state.name}, {what}, begins as {state.begins_as}")
        for condition in loaded.conditions:
            code = condition.code
            labels = f": {shortened(code.labels, _SHOWN)}" if code.labels else ""
            form = " for each pixel" if condition.is_map else ""
            lines.append(
                f"condition: {condition.name}, {code.kind} of {code.size}{form}, {code.low:g} to {code.high:g}{labels}"
            )
        lines += [f"further image: {image.name}, {image.channels} channels" for image in loaded.images]
        if loaded.freeze is not None:
            lines.append("statistics: of a whole batch; `export build` freezes them over frames")
        lines += [f"option: {option_line(option)}" for option in self.options]
        lines += [f"note: {note}" for note in loaded.notes]
        lines.append("licence: not in the file; `export build --licence TEXT` records it")
        return [printable(line) for line in lines]

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        loaded = self.loaded
        return {
            "family": loaded.family,
            "title": self.title,
            "task": loaded.task,
            "scale": loaded.scale,
            "facts": dict(loaded.facts),
            "parameters": self.parameters,
            "input_range": list(loaded.input_range),
            "output_range": list(loaded.output_range),
            "sizes": {
                "minimum": loaded.size_rule.minimum,
                "multiple": loaded.size_rule.multiple,
                "fixed": list(loaded.fixed_size) if loaded.fixed_size else None,
                "fit": loaded.fit,
            },
            "tileable": loaded.tileable,
            "halo": self.halo,
            "reach": self.reach,
            "cost": [cost.to_dict() for cost in self.costs],
            "states": [
                {"name": state.name, "channels": state.channels, "output": state.output, "initial": state.begins_as}
                for state in loaded.states
            ],
            "conditions": [
                {
                    "name": condition.name,
                    "kind": condition.code.kind,
                    "size": condition.code.size,
                    "low": condition.code.low,
                    "high": condition.code.high,
                    "labels": list(condition.code.labels),
                    "map": condition.is_map,
                }
                for condition in loaded.conditions
            ],
            "images": [image.name for image in loaded.images],
            "options": [option_dict(option) for option in self.options],
            "notes": list(loaded.notes),
            "licence": None,
        }


def facts_of(loaded: LoadedGenerator, *, measure: bool = True) -> Facts:
    """Count and measure a generator; ``measure`` False leaves the reach out, which is what takes time."""
    family = next((generator for generator in GENERATORS if generator.id == loaded.family), None)
    costs = _costs(loaded)
    halo, reach = _reach(loaded, costs, measure=measure)
    return Facts(
        loaded,
        family.title if family is not None else "",
        family.options if family is not None else (),
        sum(parameter.numel() for parameter in loaded.net.parameters()),
        costs,
        halo,
        reach,
    )


def _costs(loaded: LoadedGenerator) -> tuple[Cost, ...]:
    sizes = (loaded.fixed_size,) if loaded.fixed_size else [loaded.size_rule.padded(*frame) for frame in FRAMES]
    try:
        return tuple(cost_of(loaded, height, width) for height, width in sizes)
    except Exception:  # tensors without values stop many an operation that looks at them, each in its own way
        return ()


@torch.no_grad()
def cost_of(loaded: LoadedGenerator, height: int, width: int) -> Cost:
    """What a frame of ``height x width`` pixels costs.

    The net is run on tensors that have a shape and no values, which takes no time to speak of.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        frame = torch.zeros(1, 3, height, width)
        fed = [
            frame if state.output is None else torch.zeros(1, state.channels, height * state.scale, width * state.scale)
            for state in loaded.states
        ]
        codes = [condition_tensor(condition, None, 1, height, width) for condition in loaded.conditions]
        loaded.net(frame, *fed, *codes)
    return Cost(height, width, counter.get_total_flops() // 2, height * width * loaded.scale**2)


def _reach(loaded: LoadedGenerator, costs: tuple[Cost, ...], *, measure: bool) -> tuple[int | None, str]:
    if not loaded.tileable:
        return None, "the whole frame, which is never cut into tiles"
    if loaded.states:
        return None, "the whole frame, since each frame depends on the one before"
    if not measure:
        return None, "not measured (--no-measure)"
    if loaded.freeze is not None:
        return None, "not measured before its statistics are frozen, by `export build`"
    limit = _affordable(loaded, costs[0]) if costs else 0
    if not limit:
        return None, "not measured, which would take long with a net of this size; `export build` does it"
    rule = loaded.size_rule
    try:
        halo = measured_halo(frame_graph(loaded), rule.minimum, rule.multiple, loaded.scale, limit)
    except ValueError:
        further = "" if limit == _RADII[-1] else ", not measured further; `export build` does it"
        return None, f"more than {limit // 2} pixels{further}"
    return halo, f"{halo} pixels, measured: an output pixel sees {2 * halo + 1}x{2 * halo + 1} of the input"


def _affordable(loaded: LoadedGenerator, cost: Cost) -> int:
    """The largest radius that can be measured within the budget, 0 for none."""
    per_pixel, spent, limit = cost.macs / (cost.height * cost.width), 0.0, 0
    for radius in _RADII:
        side = loaded.size_rule.padded(2 * radius + 1, 2 * radius + 1)[0]
        spent += per_pixel * side**2 * _PROBES
        if spent > BUDGET:
            break
        limit = radius
    return limit


def _span(values: tuple[float, float]) -> str:
    return f"{values[0]:g}..{values[1]:g}"


def _giga(macs: float) -> str:
    return f"{macs / 1e9:,.3g} G" if macs < 1e12 else f"{macs / 1e12:,.3g} T"


def _sizes(loaded: LoadedGenerator) -> str:
    if loaded.fixed_size:
        height, width = loaded.fixed_size
        how = "scaled to it, and back" if loaded.fit == "resize" else "padded to it, or cut into tiles"
        return f"{width}x{height} only; frames of another size are {how}"
    rule = loaded.size_rule
    parts = [f"at least {rule.minimum} pixels a side"] if rule.minimum > max(1, rule.multiple) else []
    parts += [f"a multiple of {rule.multiple}; other frames are padded"] if rule.multiple > 1 else []
    return ", ".join(parts) or "any"


# --- options ----------------------------------------------------------------------------------------------------------


def option_line(option: Option) -> str:
    """``statistics=frames|stored: which statistics ... (default: frames)``."""
    values = "|".join(option.values) or "TEXT"
    default = f" (default: {option.values[0]})" if option.values else ""
    return f"{option.name}={values}: {option.help}{default}"


def option_dict(option: Option) -> dict[str, Any]:
    return {
        "name": option.name,
        "values": list(option.values),
        "default": option.values[0] if option.values else None,
        "help": option.help,
    }


# --- files that do not fit --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lacks:
    """How a checkpoint differs from the family that is nearest to it; empty lists where that is not known."""

    family: Generator
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"nearest family: {self.family.id} ({self.family.title})"]
        for what, names in (("missing", self.missing), ("extra", self.extra), ("another shape", self.wrong)):
            if names:
                lines.append(f"{what} ({len(names)}): {shortened(names, _SHOWN)}")
        return [printable(line) for line in lines]

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "nearest": self.family.id,
            "missing": list(self.missing),
            "extra": list(self.extra),
            "wrong_shape": list(self.wrong),
        }


def lacks_of(checkpoint: Checkpoint, options: Mapping[str, str]) -> Lacks | None:
    """What is missing from a checkpoint that did not load, by the loader of the family that it is, or resembles.

    None for a net that is known to be no generator.
    """
    if reason(checkpoint.state) is not None:
        return None
    try:
        found = find(checkpoint.state, GENERATORS)
    except CheckpointError:
        found = None
    state: State = found.state if found is not None else checkpoint.state
    family = found.generator if found is not None else nearest(state, GENERATORS)
    try:
        family.load(state, **options)
    except MismatchError as error:
        return Lacks(family, error.missing, error.extra, error.wrong)
    except Exception:  # a loader may count on what its detector has seen
        pass
    return Lacks(family)


def header(path: Path, checkpoint: Checkpoint) -> list[str]:
    """What lies in the file: counts, digest, place, and some of the tensors."""
    state = checkpoint.state
    lines = [
        f"{path.name}: {len(state)} tensors, {sum(tensor.numel() for tensor in state.values()):,} values",
        f"sha256 {checkpoint.sha256}",
    ]
    if checkpoint.wrapper:
        lines.append(f"found under: {checkpoint.wrapper}")
    rows = [f"  {key}  {list(tensor.shape)}" for key, tensor in state.items()]
    lines += rows if len(rows) <= _SHOWN else [*rows[:8], f"  … {len(rows) - _SHOWN} more", *rows[-4:]]
    return [printable(line) for line in lines]
