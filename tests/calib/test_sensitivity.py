"""The judge on real photos, and the search on layers whose damage is known exactly."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from calib.sensitivity import (
    MAX_CURVE,
    UNSEEN,
    Budget,
    Form,
    Judge,
    Loss,
    Play,
    Search,
    about_as_good,
    goodness,
    rank,
    search,
)
from calib.truth import reduced
from recipes.evaluation import bicubic, score_pair
from runtime.errors import GenedgeError
from runtime.frames import Frame
from runtime.metrics import MAX_PSNR_DB, compare, decibels

# --- judge ------------------------------------------------------------------------------------------------------------


def noisy(frame: Frame, amount: float, seed: int = 0) -> Frame:
    noise = np.random.default_rng(seed).normal(0, amount, frame.shape)
    return np.clip(np.round(frame + noise), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def crops(photos: tuple[Frame, ...]) -> list[Frame]:
    return [np.ascontiguousarray(photo[60:180, 100:260]) for photo in photos]


@pytest.mark.parametrize("amount", [0.4, 2.0, 9.0])
def test_figures_are_those_of_the_parity_report(amount: float, crops: list[Frame]) -> None:
    outputs = [noisy(frame, amount, seed) for seed, frame in enumerate(crops)]
    loss = Judge(crops).loss(outputs)
    report = compare(zip(crops, outputs, strict=True))
    assert loss.psnr_db == pytest.approx(report.psnr_db, abs=1e-6)
    assert loss.delta_e == pytest.approx(report.delta_e, rel=0.03)  # from every fourth pixel
    assert (loss.truth_db, loss.drift_db) == (None, 0.0)


def test_identical_frames_lose_nothing(crops: list[Frame]) -> None:
    assert Judge(crops, crops).loss(crops) == Loss(MAX_PSNR_DB, 0.0, 0.0, 0.0)


def test_loss_against_the_truth_is_that_of_the_benchmarks(crops: list[Frame]) -> None:
    """Luma PSNR inside a border of the scale, as ``recipes.evaluation`` scores it, but for ``UNSEEN``."""
    restored = [bicubic(reduced(frame, 4), *frame.shape[:2]) for frame in crops]
    worse = [noisy(frame, 6.0, seed) for seed, frame in enumerate(restored)]

    def scored(truth: Frame, output: Frame) -> float:
        psnr, _ = score_pair(truth, output, 4)
        return decibels(255**2 / 10 ** (psnr / 10) + UNSEEN)

    pairs = zip(crops, restored, worse, strict=True)
    each = [scored(truth, good) - scored(truth, bad) for truth, good, bad in pairs]
    assert min(each) > 0.1
    assert Judge(restored, crops, border=4).loss(worse).truth_db == pytest.approx(np.mean(each))


def test_the_border_does_not_count(crops: list[Frame]) -> None:
    outputs = [frame.copy() for frame in crops]
    for frame in outputs:
        frame[:2], frame[-2:], frame[:, :2], frame[:, -2:] = 0, 0, 0, 0
    assert Judge(crops, crops, border=2).loss(outputs).truth_db == 0
    assert (Judge(crops, crops, border=1).loss(outputs).truth_db or 0) > 10


def test_luck_on_one_frame_hides_nothing(crops: list[Frame]) -> None:
    """One frame comes out closer to the truth than float was, by as much as another one is further off."""
    truth = crops[:2]
    reference = [noisy(frame, 5.0, seed) for seed, frame in enumerate(truth)]
    judge = Judge(reference, truth)
    worse = noisy(reference[1], 5.0, 7)
    alone = Judge(reference[1:], truth[1:]).loss([worse]).truth_db
    assert alone is not None
    lucky = judge.loss([truth[0], worse])
    assert lucky.truth_db == pytest.approx(alone / 2)
    assert judge.loss([reference[0], worse]).truth_db == lucky.truth_db
    assert judge.loss([truth[0], reference[1]]).truth_db == 0


def test_decibels_that_nobody_could_see_are_no_loss(crops: list[Frame]) -> None:
    """A nearly perfect float graph, and one step off in a hundredth of the values: 20 dB in plain PSNR."""
    truth = crops[:1]
    reference, output = truth[0].copy(), truth[0].copy()
    reference[0, 0, 0] ^= 1
    places = np.random.default_rng(0).random(output.shape) < 0.01
    output[places] ^= 1
    loss = Judge([reference], truth).loss([output]).truth_db
    assert loss is not None
    assert 0 < loss < 0.05
    assert decibels(UNSEEN) == pytest.approx(48.13, abs=0.01)


def test_another_number_of_frames_or_another_shape_is_an_error(crops: list[Frame]) -> None:
    judge = Judge(crops)
    with pytest.raises(ValueError, match="zip"):
        judge.loss(crops[:-1])
    with pytest.raises(ValueError, match="cannot be compared"):
        judge.loss([crops[0][:-1], *crops[1:]])
    with pytest.raises(ValueError, match="cannot be compared"):
        judge.loss([crops[0][:1, :1], *crops[1:]])  # NumPy would repeat the pixel
    with pytest.raises(ValueError, match="no frame"):
        Judge([])


def test_tiny_frames_can_be_judged() -> None:
    pixel = np.full((1, 1, 3), 100, np.uint8)
    loss = Judge([pixel], [pixel], border=4).loss([pixel + np.uint8(1)])
    assert loss.truth_db is not None
    assert loss.truth_db > 0


# --- drift ------------------------------------------------------------------------------------------------------------


def test_drift_is_how_much_worse_the_second_half_of_a_run_is(crops: list[Frame]) -> None:
    frames = crops[:1] * 8
    amounts = [2, 2, 4, 4] * 2
    outputs = [noisy(frame, amount, seed) for seed, (frame, amount) in enumerate(zip(frames, amounts, strict=True))]
    runs = [[0, 1, 2, 3], [4, 5, 6, 7]]
    drift = Judge(frames, runs=runs).loss(outputs).drift_db
    assert drift == pytest.approx(10 * np.log10((16 + UNSEEN) / (4 + UNSEEN)), abs=0.3)
    assert Judge(frames, runs=runs).loss(outputs[::-1]).drift_db == pytest.approx(-drift, abs=0.3)
    assert Judge(frames).loss(outputs).drift_db == 0
    assert Judge(frames, runs=[[index] for index in range(8)]).loss(outputs).drift_db == 0  # nothing follows anything


def test_drift_that_nobody_could_see_is_none(crops: list[Frame]) -> None:
    """A state begins at zero, so first frames may be exact and later ones a step off here and there."""
    frames = crops[:1] * 4
    off = frames[0].copy()
    off[::8, ::8] ^= 1
    loss = Judge(frames, runs=[[0, 1, 2, 3]]).loss([frames[0], frames[0], off, off])
    assert 0 < loss.drift_db < 0.1
    assert Budget().met(loss)


# --- budget -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "loss", "met"),
    [
        (Budget(0.1), Loss(20, 9, 0.1), True),  # with a truth, PSNR against float says nothing
        (Budget(0.1), Loss(60, 0, 0.1001), False),
        (Budget(0.1), Loss(40, 9), True),
        (Budget(0.1), Loss(39.99, 0), False),
        (Budget(psnr_db=30), Loss(30, 0), True),
        (Budget(delta_e=1), Loss(60, 1.0), True),
        (Budget(delta_e=1), Loss(60, 1.01), False),
        (Budget(delta_e=1), Loss(60, 1.01, 0.0), False),
        (Budget(), Loss(60, 0, 0.0, 1.0), True),
        (Budget(), Loss(60, 0, 0.0, 1.01), False),
        (Budget(), Loss(60, 0, 0.0, -5), True),
        (Budget(), Loss(float("nan"), 0), False),
    ],
)
def test_budget_edges(budget: Budget, loss: Loss, met: bool) -> None:
    assert budget.met(loss) is met


def test_excess_says_by_which_figure_a_budget_is_missed() -> None:
    assert Budget(0.1).excess(Loss(20, 9, 0.3)) == pytest.approx(3)
    assert Budget(psnr_db=40).excess(Loss(34, 9)) == pytest.approx(2, rel=0.01)
    assert Budget(0.1, delta_e=0.5).excess(Loss(60, 2.0, 0.3)) == pytest.approx(4)
    assert Budget().excess(Loss(60, 0, 0.0, 5.0)) == pytest.approx(5)
    assert Budget().excess(Loss(60, 0, 0.0)) <= 1


def test_budget_as_text() -> None:
    assert str(Budget()) == "0.1 dB against ground truth (without one: 40 dB PSNR against float)"
    assert str(Budget(0.25, 1.5, 38)).endswith("(without one: 38 dB PSNR against float) and ΔE 1.5")


def test_goodness() -> None:
    assert goodness(Loss(60, 0, 0.2)) < goodness(Loss(20, 0, 0.1))
    assert goodness(Loss(41, 9)) > goodness(Loss(40, 0))
    assert about_as_good(Loss(0, 0, 0.12), Loss(0, 0, 0.1))
    assert not about_as_good(Loss(0, 0, 0.13), Loss(0, 0, 0.1))
    assert about_as_good(Loss(49.5, 0), Loss(50, 0))
    assert not about_as_good(Loss(49.4, 0), Loss(50, 0))


# --- search -----------------------------------------------------------------------------------------------------------

VALUES = 40 * 40 * 3
Damage = Callable[[frozenset[str]], int]  # layers in INT8 -> values that come out a step off


def net(count: int) -> onnx.ModelProto:
    """A chain of ``count`` convolutions, called l0, l1, and so on."""
    ports = [f"t{number}" for number in range(count + 1)]
    nodes = [
        helper.make_node("Conv", [ports[number], "w"], [ports[number + 1]], name=f"l{number}")
        for number in range(count)
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 1, 4, 4)) for name in (ports[0], ports[-1])]
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    return helper.make_model(helper.make_graph(nodes, "net", ends[:1], ends[1:], [weight]))


class Bench:
    """A form, its player and a judge, by which the layers in INT8 make as many values wrong as ``damage`` says."""

    def __init__(self, count: int, damage: Damage) -> None:
        self.model, self.damage = net(count), damage
        self.names = [f"l{number}" for number in range(count)]
        self.played: list[str] = []
        self.judge = Judge([np.zeros((40, 40, 3), np.uint8)])
        self.form = Form("fake", self._build, lambda layer: True)

    def _build(self, model: onnx.ModelProto, ranges: object, keep: tuple[str, ...]) -> onnx.ModelProto:
        assert model is self.model
        result = onnx.ModelProto()
        result.doc_string = " ".join(name for name in self.names if name not in keep)
        return result

    @property
    def play(self) -> Play:
        def play(model: onnx.ModelProto) -> Sequence[Frame]:
            self.played.append(model.doc_string)
            output = np.zeros(VALUES, np.uint8)
            output[: self.damage(frozenset(model.doc_string.split()))] = 1
            return [output.reshape(40, 40, 3)]

        return play

    def search(self, allowed: int) -> Search:
        """Search with a budget of ``allowed`` wrong values."""
        budget = Budget(psnr_db=decibels((allowed + 0.5) / VALUES))
        return search(self.model, self.form, {}, budget, self.play, self.judge)

    def minimal(self, found: Search, allowed: int) -> bool:
        """Whether the result is within the budget, and no layer more can be INT8."""
        quantised = frozenset(self.names) - set(found.best.float_layers)
        more = (self.damage(quantised | {name}) for name in found.best.float_layers)
        return self.damage(quantised) <= allowed and all(damage > allowed for damage in more)


def summed(damages: Sequence[int]) -> Damage:
    return lambda quantised: sum(damages[int(name[1:])] for name in quantised)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=9), st.integers(0, 1200))
@settings(max_examples=80, deadline=None)
def test_search_finds_a_minimal_set_of_float_layers(damages: list[int], allowed: int) -> None:
    bench = Bench(len(damages), summed(damages))
    found = bench.search(allowed)
    # it leaves one layer in INT8 at least, and a set that is met is found if the least harmful layer is
    assert found.met is (min(damages) <= allowed)
    if found.met:
        assert bench.minimal(found, allowed)
    assert found.model.doc_string.split() == [name for name in bench.names if name not in found.best.float_layers]
    assert list(found.best.float_layers) == sorted(found.best.float_layers)  # in the graph's order
    assert found.layers == tuple(bench.names)


@given(st.integers(2, 6), st.integers(0, 1000), st.integers(0, 300))
@settings(max_examples=120, deadline=None)
def test_it_is_minimal_where_errors_cancel_out_or_add_up(count: int, seed: int, allowed: int) -> None:
    """Any damage at all for any set of layers."""

    def damage(quantised: frozenset[str]) -> int:
        return zlib.crc32(f"{seed} {sorted(quantised)}".encode()) % 600 if quantised else 0

    bench = Bench(count, damage)
    found = bench.search(allowed)
    if found.met:
        assert bench.minimal(found, allowed)
    else:
        assert all(damage(frozenset(bench.names) - set(point.float_layers)) > allowed for point in found.curve)


def test_nothing_stays_in_float_where_all_meets_the_budget() -> None:
    found = Bench(4, summed([1, 2, 3, 4])).search(10)
    assert (found.met, found.best.float_layers) == (True, ())


def test_the_curve_starts_with_all_in_int8_and_takes_the_most_harmful_first() -> None:
    bench = Bench(5, summed([5, 100, 30, 1, 60]))
    found = bench.search(40)
    assert [point.float_layers for point in found.curve][:3] == [(), ("l1",), ("l1", "l4")]
    assert found.curve[0].loss == bench.judge.loss(bench.play(bench.form.build(bench.model, {}, ())))
    losses = [point.loss.psnr_db for point in found.curve]
    assert losses == sorted(losses)
    assert [damage.layer.name for damage in found.damages] == ["l1", "l4", "l2", "l0", "l3"]
    assert found.best.float_layers == ("l1", "l4")


def test_a_layer_that_can_go_back_goes_back() -> None:
    """The most harmful one is kept first, but the next two are worse together."""

    def damage(quantised: frozenset[str]) -> int:
        pair = 200 if {"l1", "l2"} <= quantised else 0
        return pair + sum({"l0": 50, "l1": 40, "l2": 40, "l3": 0}[name] for name in quantised)

    bench = Bench(4, damage)
    found = bench.search(100)
    assert found.best.float_layers == ("l1",)
    assert bench.minimal(found, 100)


def test_what_no_choice_meets_gives_the_point_that_exceeds_the_budget_least() -> None:
    found = Bench(4, summed([100, 50, 70, 60])).search(10)
    assert not found.met
    assert found.best.float_layers == ("l0", "l2", "l3")
    assert found.best.loss.psnr_db == max(point.loss.psnr_db for point in found.curve)
    assert found.model.doc_string == "l1"


class ThousandthsJudge:
    """Every wrong value is a thousandth of a decibel from the ground truth."""

    def loss(self, outputs: Sequence[Frame]) -> Loss:
        wrong = int(np.count_nonzero(outputs[0]))
        return Loss(60 - wrong / 100, 0.0, wrong / 1000)


@pytest.mark.parametrize(
    ("damages", "headroom", "kept"),
    [
        ([10, 20, 30, 40], 1.0, ()),  # 100 in all is the budget itself
        ([10, 20, 30, 40], 0.65, ("l3",)),  # 60 left
        ([70, 90], 0.65, ("l1",)),  # 65 is out of reach, the whole budget is not
        ([110, 120], 0.65, None),
    ],
)
def test_the_search_aims_at_a_share_of_the_budget(
    damages: list[int], headroom: float, kept: tuple[str, ...] | None
) -> None:
    bench = Bench(len(damages), summed(damages))
    found = search(bench.model, bench.form, {}, Budget(db=0.1), bench.play, ThousandthsJudge(), headroom=headroom)
    assert found.met is (kept is not None)
    if kept is not None:
        assert found.best.float_layers == kept


def test_one_layer_is_met_or_not() -> None:
    for allowed, met in ((9, False), (10, True)):
        found = Bench(1, summed([10])).search(allowed)
        assert (found.met, found.best.float_layers, found.damages, len(found.curve)) == (met, (), (), 1)


def test_no_choice_is_played_twice_by_the_search() -> None:
    bench = Bench(7, summed([10, 20, 30, 40, 50, 60, 70]))
    bench.search(75)
    ranked = [name for name in bench.played if len(name.split()) == 1]
    others = [name for name in bench.played if len(name.split()) > 1]
    assert len(set(others)) == len(others)
    assert set(ranked) == set(bench.names)


def test_the_curve_of_a_deep_net_is_short() -> None:
    found = Bench(60, summed([1] * 60)).search(0)
    assert not found.met
    assert len(found.curve) <= MAX_CURVE + 1
    assert len(found.curve[-1].float_layers) == 59
    assert [len(point.float_layers) for point in Bench(60, summed([1] * 60)).search(58).curve][:3] == [0, 1, 4]


def test_a_form_that_can_quantise_nothing_is_an_error() -> None:
    bench = Bench(2, summed([1, 1]))
    with pytest.raises(GenedgeError, match="no layer of the graph can be quantised as none"):
        search(bench.model, Form("none", bench.form.build, lambda layer: False), {}, Budget(), bench.play, bench.judge)


def test_rank_plays_every_layer_alone() -> None:
    bench, said = Bench(3, summed([5, 300, 20])), []
    damages = rank(bench.model, bench.form, {}, bench.play, bench.judge, said.append)
    assert bench.played == ["l0", "l1", "l2"]
    assert [damage.layer.name for damage in damages] == ["l1", "l2", "l0"]
    assert [damage.loss.psnr_db for damage in damages] == pytest.approx([decibels(n / VALUES) for n in (300, 20, 5)])
    assert said == [f"fake: layer {number} of 3 alone" for number in (1, 2, 3)]


def test_search_as_json() -> None:
    content = Bench(3, summed([5, 300, 20])).search(30).to_dict()
    assert (content["met"], content["float_layers"]) == (True, ["l1"])
    assert [point["float_layers"] for point in content["curve"]] == list(chain(range(3)))
    assert set(content["alone"]) == {"l0", "l1", "l2"}
