"""The INT8 benchmark's own logic: ratios, what is judged and skipped, and the Markdown it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import common
from benchmarks.int8 import __main__ as int8
from benchmarks.int8.peers import judge_peers
from benchmarks.int8.quality import Pair, judge_clip, judge_truth, losses
from benchmarks.int8.report import BEGIN, END, Report, markdown_table, write_markdown
from benchmarks.int8.rounds import Times, Watch, kind_of, ratio, take_turns
from benchmarks.int8.speed import AGAINST_INT8, INT8, INT8_ORT, judge_speed
from runtime.errors import UsageError


def verdicts(targets: list[common.Target]) -> list[str]:
    return [target.verdict for target in targets]


def test_ratio_is_the_median_of_each_rounds_ratio() -> None:
    slow, fast = Times([10, 40, 12], [1, 1, 1]), Times([5, 10, 4], [2, 2, 2])
    assert ratio(slow, fast, "wall") == 3
    assert ratio(slow, fast, "cpu") == 0.5


def test_every_contender_has_one_entry_a_round_and_another_one_begins_each_time() -> None:
    order: list[str] = []
    runs = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    times = take_turns(runs, 2, "test")
    assert all(len(taken.wall) == len(taken.cpu) == 2 for taken in times.values())
    firsts = [name for place, name in enumerate(order) if place == 0 or order[place - 1] != name]
    assert firsts == ["a", "b", "a"]  # a then b, b then a: the two turns of b follow each other


@pytest.mark.parametrize(("load", "kind"), [(0.0, "wall"), (common.BUSY, "wall"), (common.BUSY + 0.01, "cpu")])
def test_times_are_judged_by_the_processor_where_others_keep_the_machine_busy(load: float, kind: str) -> None:
    assert kind_of(load) == kind


def test_the_load_of_others_is_a_share() -> None:
    watch = Watch()
    sum(range(100_000))
    assert 0 <= watch.load() <= 1


def test_loss_is_what_the_truth_is_further_away() -> None:
    truth = np.full((20, 20, 3), 100, dtype=np.uint8)
    pairs = [Pair(truth, truth)]
    assert losses(pairs, [truth + 2], [truth + 2], 2) == 0
    assert losses(pairs, [truth + 2], [truth + 4], 2) == pytest.approx(20 * np.log10(2), abs=1e-6)


def test_a_net_is_judged_on_its_own_limits_and_colour_only_where_there_is_one() -> None:
    lost = {"set5": 0.07, "set14": 0.06}
    assert verdicts(judge_truth("sr-x2", "sr-x2", lost, 0.4)) == ["met", "MISSED", "met"]
    assert verdicts(judge_truth("span-x4", "span-x4", lost, 3.0)) == ["met", "met"]


def test_a_recurrent_net_that_drifts_misses() -> None:
    assert verdicts(judge_clip("net", 0.05, 45.0, 43.9)) == ["met", "MISSED"]
    assert verdicts(judge_clip("net", 0.05, 43.0, 45.0)) == ["met", "met"]


def test_speed_of_a_dropped_variant_is_skipped_with_its_reason_and_not_met() -> None:
    times = {slow: Times([8.0], [8.0]) for slow in AGAINST_INT8}
    targets = judge_speed("sr-x2", times, {INT8: "dropped by the build: slow"}, "wall", {})
    assert verdicts(targets) == ["skipped"] * len(AGAINST_INT8)
    assert {target.measured for target in targets} == {"dropped by the build: slow"}


def test_only_the_named_nets_are_judged_on_speed() -> None:
    times = {name: Times([8.0], [8.0]) for name in (*AGAINST_INT8, INT8_ORT)} | {INT8: Times([2.0], [4.0])}
    assert judge_speed("span-x4", times, {}, "wall", {}) == []
    assert verdicts(judge_speed("sr-x2", times, {}, "wall", {})) == ["met"] * len(AGAINST_INT8)
    assert "MISSED" in verdicts(judge_speed("sr-x2", times, {}, "cpu", {}))


def test_ours_must_lose_less_than_the_default_and_entropy_and_be_no_slower() -> None:
    lost = {name: {"set5": value} for name, value in
            {"ours int8-ort": 0.02, "default (MinMax)": 0.03, "Entropy": 0.02}.items()}  # fmt: skip
    times = {name: Times([10.0], [10.0]) for name in lost}
    assert verdicts(judge_peers("net", lost, times, "wall", {})) == ["met", "MISSED", "met"]
    failed = {"Entropy": "RuntimeError"}
    assert verdicts(judge_peers("net", lost, times, "wall", failed)) == ["met", "skipped", "met"]


def test_markdown_goes_between_the_marks_and_leaves_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"before\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n", encoding="utf-8")
    for text in ("first", "second"):
        write_markdown(path, text)
    assert path.read_text(encoding="utf-8") == f"before\n\n{BEGIN}\n\nsecond\n\n{END}\n\nafter\n"


def test_markdown_overwrites_nothing_without_marks(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="to write between"):
        write_markdown(path, "figures")
    assert path.read_text(encoding="utf-8") == "mine"
    write_markdown(tmp_path / "new.md", "figures")
    assert "figures" in (tmp_path / "new.md").read_text(encoding="utf-8")


def test_the_page_in_docs_has_the_marks() -> None:
    text = (Path(__file__).parents[2] / "docs" / "int8.md").read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1


def test_a_report_in_markdown_names_command_conditions_and_targets() -> None:
    report = Report(common.Result("int8", {"device": "x", "load": None}))
    report.add("Empty", ("a",), [], 1, "")
    report.add("Full", ("a", "b"), [("x|y", "1")], 1, "how")
    report.result.targets.append(common.skipped("net", "not here"))
    text = report.markdown("python -m benchmarks.int8")
    assert "Empty" not in text
    assert "`python -m benchmarks.int8`: device x." in text
    assert markdown_table(("a", "b"), [("x|y", "1")], 1) == "| a | b |\n| --- | --: |\n| x\\|y | 1 |"
    assert "| net | not here |  | skipped |" in text


def test_what_is_not_here_is_skipped_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENEDGE_ASSETS", str(tmp_path / "nothing"))
    figures = tmp_path / "figures.json"
    built = str(tmp_path / "built")
    code = int8.main(["--quick", "--net", "candy-nc16", "--built", built, "--json", str(figures)])
    assert code == 0
    assert '"verdict": "skipped"' in figures.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "peers", "cost"),
    [
        ([], ["sr-x2", "realesr-animevideov3"], ["realesr-animevideov3"]),
        (["--quick"], ["sr-x2"], ["realesr-animevideov3"]),
        (["--net", "sr-x4"], [], []),
        (["--net", "sr-x4", "--only", "peers"], ["sr-x4"], []),
        (["--net", "sr-x4", "--only", "cost"], [], ["sr-x4"]),
    ],
)
def test_which_nets_each_part_takes(
    arguments: list[str], peers: list[str], cost: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[object] = []
    monkeypatch.setattr(common, "run", lambda name, measure, options: taken.append(options) or 0)
    int8.main(arguments)
    assert [net.name for net in int8.peer_nets(taken[0])] == peers  # type: ignore[arg-type]
    assert [net.name for net in int8.cost_nets(taken[0])] == cost  # type: ignore[arg-type]
