"""What `inspect` counts and measures."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from checkpoint_factory import PUBLISHED, loaded
from published import Published
from torch import Tensor, nn

import export.facts
from export.facts import facts_of
from export.generators.base import Condition, FurtherImage, LoadedGenerator
from runtime.codes import Code
from runtime.frames import SizeRule


def test_multiply_accumulates_are_those_of_the_convolutions() -> None:
    facts = facts_of(loaded("compact-x2"))
    per_pixel = 9 * (3 * 8 + 8 * 8 + 8 * 12)
    assert [(cost.height, cost.width, cost.macs) for cost in facts.costs] == [
        (360, 640, 360 * 640 * per_pixel),
        (720, 1280, 720 * 1280 * per_pixel),
    ]
    assert facts.costs[0].per_megapixel == 1e6 * per_pixel / 4  # of output, which has four pixels for each
    assert (facts.halo, facts.parameters) == (3, per_pixel + 8 + 8 + 12)
    assert "MACs: 0.382 G for 640x360, 1.53 G for 1280x720; 0.414 G per megapixel of output" in facts.lines()
    assert "reach: 3 pixels, measured: an output pixel sees 7x7 of the input" in facts.lines()


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case.id)
def test_every_published_net_is_counted_and_shown(case: Published) -> None:
    generator = loaded(case.id)
    facts = facts_of(generator, measure=False)
    assert facts.costs
    for cost in facts.costs:
        assert generator.size_rule.allows(cost.height, cost.width)
        assert cost.macs > cost.height * cost.width
    lines = facts.lines()
    assert lines[0].startswith(f"family: {case.family} (")
    assert all(line.isprintable() for line in lines)
    for name in (*(state.name for state in generator.states), *(each.name for each in generator.conditions)):
        assert any(f": {name}, " in line for line in lines)
    content = json.loads(json.dumps(facts.to_dict(), allow_nan=False))
    assert (content["family"], content["scale"], content["tileable"]) == (case.family, case.scale, generator.tileable)


@pytest.mark.parametrize(
    ("id", "sentence"),
    [
        ("cyclegan", "the whole frame, which is never cut into tiles"),
        ("mobile-rrn", "the whole frame, which is never cut into tiles"),
    ],
)
def test_what_looks_at_the_whole_frame_is_not_measured(id: str, sentence: str) -> None:
    facts = facts_of(loaded(id))
    assert (facts.halo, facts.reach) == (None, sentence)


def test_counting_leaves_the_net_as_it_was() -> None:
    generator = loaded("cyclegan-batch-norm")
    before = {name: tensor.clone() for name, tensor in generator.net.state_dict().items()}
    facts_of(generator, measure=False)
    after = generator.net.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert type(after["model.1.weight"]) is Tensor
    assert generator.net(torch.zeros(1, 3, 24, 32)).isfinite().all()


def test_a_heavy_net_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.facts, "BUDGET", 1e5)
    facts = facts_of(loaded("compact-x2"))
    assert facts.halo is None
    assert facts.reach.startswith("not measured, which would take long")


class Wide(nn.Module):
    """Reaches 40 pixels far."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, (1, 81), padding=(0, 40))

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image)


def test_a_reach_beyond_what_is_affordable_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = LoadedGenerator("wide", Wide().eval().requires_grad_(False), 1)
    assert facts_of(generator).halo == 40
    monkeypatch.setattr(export.facts, "BUDGET", 9 * 81 * 49**2 * 16 * 1.5)
    facts = facts_of(generator)
    assert facts.halo is None
    assert facts.reach == "more than 12 pixels, not measured further; `export build` does it"


class Odd(nn.Module):
    """Looks at its values, which a net without values cannot do."""

    def forward(self, image: Tensor) -> Tensor:
        return image if float(image.sum()) > 0 else -image


def test_a_net_that_cannot_be_counted_says_so() -> None:
    facts = facts_of(LoadedGenerator("odd", Odd(), 1))
    assert facts.costs == ()
    assert "MACs: not counted (an operation of this net cannot be)" in facts.lines()
    assert facts.reach.startswith("not measured")


class Masked(nn.Module):
    def forward(self, image: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        return image + code.sum(), image[:, :1]


def test_conditions_sizes_and_further_images_are_shown() -> None:
    code = Code("one-hot", 3, (0.0, 1.0, 0.0), labels=("a", "b\u00e4", "c"))
    generator = LoadedGenerator(
        "masked",
        Masked(),
        1,
        fixed_size=(128, 96),
        conditions=(Condition("kind", code),),
        images=(FurtherImage("mask"),),
        notes=("the norms' statistics are those of training\x1b",),
    )
    facts = facts_of(generator, measure=False)
    assert [(cost.height, cost.width) for cost in facts.costs] == [(128, 96)]
    lines = facts.lines()
    assert "sizes: 96x128 only; frames of another size are padded to it, or cut into tiles" in lines
    assert "condition: kind, one-hot of 3, 0 to 1: a, bä, c" in lines
    assert "further image: mask, 1 channels" in lines
    assert "note: the norms' statistics are those of training\\x1b" in lines
    resized = replace(generator, fit="resize")
    assert any("scaled to it, and back" in line for line in facts_of(resized, measure=False).lines())
    ruled = replace(generator, fixed_size=None, size_rule=SizeRule(8, 4), freeze=lambda frames, progress: generator)
    lines = facts_of(ruled).lines()
    assert "sizes: at least 8 pixels a side, a multiple of 4; other frames are padded" in lines
    assert any(line.startswith("statistics: of a whole batch") for line in lines)
    assert "reach: not measured before its statistics are frozen, by `export build`" in lines
