"""The visit to a GPU, rehearsed without one: real runs on ONNX Runtime, and fakes for what a GPU would do."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fake_cuda
import fake_tensorrt
import numpy as np
import pytest
from bundle_factory import random_frames, upscale, upscale_model, write_recurrent_bundle, write_small_bundle
from checkpoint_factory import write_checkpoint

from benchmarks import common
from benchmarks.gpu_visit import __main__ as gpu_visit
from benchmarks.gpu_visit import contenders, page
from benchmarks.gpu_visit.record import BEGUN, Budget, Record, Row, TimeUpError, read_record, sentence
from benchmarks.gpu_visit.turns import Taken, Turn, ratio, take_turns
from benchmarks.int8.report import write_markdown
from runtime.bundle import open_bundle
from runtime.engines.facts import device_facts
from runtime.errors import GenedgeError, UsageError
from runtime.frames import Frames
from runtime.manifest import Limits
from runtime.sessions.fake import FakeSession
from runtime.video.source import open_source

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--backend", "onnxruntime", "--size", "16x24", "--rounds", "1", "--precision", "fp32,fp16"]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def rows_of(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Step and who -> row, of a visit to one bundle."""
    return {(row["step"], row["who"]): row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    models = {"fp32": upscale_model(), "fp16": upscale_model()}
    return write_small_bundle(tmp_path / "tiny-x2", models=models, limits={"fp32": Limits(max_abs=0)})


@pytest.fixture(autouse=True)
def _short_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "CLIP_FRAMES", 6)
    monkeypatch.setattr(contenders, "WHOLE_SECONDS", 0.001)
    monkeypatch.setattr(contenders, "ENGINE_SECONDS", 0.001)


@pytest.fixture
def _no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = gpu_visit._installed
    monkeypatch.setattr(gpu_visit, "_installed", lambda package: package != "torch" and installed(package))


# --- the record -------------------------------------------------------------------------------------------------------


def test_the_file_is_whole_after_every_row_and_read_back_as_it_was(tmp_path: Path) -> None:
    record = Record(tmp_path / "r.json", {"device": "none"})
    for row in (Row("build", "a", "x", (4, 6), {"seconds": 1.5}), Row("parity", "a", "x", None, {}, "no frames")):
        record.add(row)
        again = read_record(record.path)
        assert again.rows == record.rows
        assert again.conditions == record.conditions
        assert not again.finished
    record.finish()
    assert read_record(record.path).finished


def test_a_row_of_the_same_measurement_takes_the_place_of_the_first(tmp_path: Path) -> None:
    record = Record(tmp_path / "r.json", {})
    for row in (
        Row("speed", "a", "x", (4, 6)),
        Row("speed", "a", "y", (4, 6)),
        Row("speed", "a", "x", (4, 6), {"n": 1}),
    ):
        record.put(row)
    assert [(row.who, row.figures) for row in record.rows] == [("x", {"n": 1}), ("y", {})]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"conditions": {}, "finished": true, "rows": [{"step": "build"}]}'])
def test_a_file_that_is_no_record(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="holds no results of a visit"):
        read_record(path)
    with pytest.raises(UsageError, match="No such file"):
        read_record(tmp_path / "missing.json")


def test_one_failure_costs_one_row_and_says_its_kind_where_it_is_not_meant_for_users(tmp_path: Path) -> None:
    record = Record(tmp_path / "r.json", {})

    def fails(error: Exception) -> Callable[[], dict[str, Any]]:
        def body() -> dict[str, Any]:
            raise error

        return body

    record.attempt("build", "a", "x", None, fails(GenedgeError("out of GPU memory: use --tile 256")))
    record.attempt("build", "a", "y", None, fails(RuntimeError("two\nlines")))
    record.attempt("build", "a", "z", None, lambda: {"seconds": 2.0})
    assert [row.error for row in record.rows] == ["out of GPU memory: use --tile 256", "RuntimeError: two", ""]
    assert sentence(ValueError()) == "ValueError: ValueError"


def test_a_step_that_takes_the_process_down_is_not_begun_again(tmp_path: Path) -> None:
    record = Record(tmp_path / "r.json", {})

    def crash() -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record.attempt("build", "a", "x", None, crash)
    record.attempt("build", "a", "y", None, lambda: {"seconds": 1.0})
    later = read_record(record.path)
    assert later.rows[0].error == BEGUN
    ran: list[str] = []
    for who in ("x", "y", "z"):
        later.attempt("build", "a", who, None, lambda who=who: {"ran": ran.append(who) or 1})
    assert ran == ["z"]
    later.put(Row("build", "a", "w", None, error="not measured: the time was up"))
    later.attempt("build", "a", "w", None, lambda: {"ran": ran.append("w") or 1})
    assert ran == ["z", "w"]


def test_budget() -> None:
    clock = Clock()
    budget = Budget(2, clock)
    part = budget.part(4)
    assert (budget.left, part.left, budget.part(0).left) == (120, 30, 120)
    clock.now += 31
    budget.check()
    with pytest.raises(TimeUpError):
        part.check()
    clock.now += 90
    assert budget.left == 0
    with pytest.raises(TimeUpError, match=r"not measured: the time was up \(--minutes 2\)"):
        budget.check()


# --- turns ------------------------------------------------------------------------------------------------------------


def steady(clock: Clock, calls: list[tuple[str, int]], name: str, milliseconds: float, **options: Any) -> Turn:
    def run(count: int) -> Sequence[float]:
        calls.append((name, count))
        clock.now += count * milliseconds / 1e3
        return [milliseconds]

    return Turn(name, "engine", run, 1.0, **options)


def test_every_turn_runs_in_every_round_with_blocks_of_the_wanted_length() -> None:
    clock, calls = Clock(), list[tuple[str, int]]()
    turns = [steady(clock, calls, "slow", 300), steady(clock, calls, "fast", 2, most=240)]
    taken = take_turns(turns, 2, Budget(60, clock))
    assert calls == [
        *(("slow", 1), ("slow", 1), ("slow", 3), ("fast", 1), ("fast", 1), ("fast", 240)),  # twice uncounted
        *(("fast", 240), ("slow", 3)),
    ]
    assert taken["slow"].figures()["engine_ms"] == 300
    assert taken["fast"].rounds == {"engine": [2, 2]}


def test_a_turn_that_fails_is_left_out_and_the_others_go_on() -> None:
    clock, calls = Clock(), list[tuple[str, int]]()
    left = 3

    def dies(count: int) -> Sequence[float]:
        nonlocal left
        left -= 1
        if not left:
            raise GenedgeError("the GPU fell off the bus")
        return [1.0]

    turns = [Turn("bad", "engine", dies, 1.0), steady(clock, calls, "good", 100), Turn("bad", "session", len, 1.0)]
    seen: list[int] = []
    taken = take_turns(
        turns, 3, Budget(60, clock), each_round=lambda found: seen.append(len(found["good"].rounds["engine"]))
    )
    assert taken["bad"].errors["engine"] == "the GPU fell off the bus"
    assert "session" in taken["bad"].errors  # len() of a number
    assert taken["bad"].rounds == {}
    assert len(taken["good"].rounds["engine"]) == 3
    assert seen == [1, 2, 3]


def test_nothing_begins_once_the_time_is_up_and_what_is_missing_says_so() -> None:
    clock, calls = Clock(), list[tuple[str, int]]()
    turns = [steady(clock, calls, name, 1000) for name in "abc"]
    taken = take_turns(turns, 9, Budget(5 / 60, clock))
    assert [name for name, _ in calls] == ["a"] * 3 + ["b"] * 3
    assert [taken[name].rounds for name in "abc"] == [{"engine": [1000]}, {"engine": [1000]}, {}]
    assert [list(taken[name].errors) for name in "abc"] == [[], [], ["engine"]]
    assert "the time was up" in taken["c"].errors["engine"]
    assert take_turns([], 3, Budget(1, clock)) == {}


def test_figures_are_medians_and_ratios_are_taken_round_by_round() -> None:
    taken = Taken({"engine": [10, 40, 12], "session": [5, 10, 4]}, {"latency": list(range(100))})
    figures = taken.figures()
    assert (figures["engine_ms"], figures["session_over_engine"]) == (12, 3)
    assert figures["latency_p95_ms"] == pytest.approx(94.95)
    assert "graph_gain" not in figures
    assert ratio([3, 8], [1]) == 3  # one of them was cut off


# --- what is measured -------------------------------------------------------------------------------------------------


class GpuSession(FakeSession):
    """A session with the engine's own clock."""

    def __init__(self) -> None:
        super().__init__()
        self.timed: list[int] = []

    def time_engine(self, frames: Frames, repeats: int) -> list[float]:
        self.timed.append(repeats)
        return [0.002] * repeats


def test_the_engine_alone_is_timed_by_the_gpus_clock_where_the_session_has_one() -> None:
    session = GpuSession()
    assert contenders.engine_alone(session, random_frames(1, 4, 6, 3))(3) == [2.0, 2.0, 2.0]
    assert session.timed == [3]
    assert session.requests == 0
    plain = FakeSession(delay=0.002)
    assert all(value >= 2 for value in contenders.engine_alone(plain, random_frames(1, 4, 6, 3))(2))
    assert plain.requests == 2


@pytest.mark.parametrize("size", [(16, 24), (15, 23)])
def test_the_clip_is_what_the_session_gets(bundle: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    material = contenders.material_of(open_bundle(bundle), *size, tmp_path)
    assert material.size == size
    assert len({frame.tobytes() for frame in material.frames}) == contenders.MATERIAL
    with open_source(str(material.clip)) as source:
        frames = []
        while (frame := source.read()) is not None:
            frames.append(frame.image)
    assert len(frames) == 6
    assert frames[0].shape == (*size, 3)
    assert np.abs(frames[0].astype(int) - material.frames[0][0]).mean() < 40  # noise, coded


def test_own_turns_run_the_same_session(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[GpuSession] = []

    def open_session(*_: Any, in_flight: int) -> GpuSession:
        opened.append(GpuSession())
        return opened[-1]

    monkeypatch.setattr(contenders, "open_session", open_session)
    held = open_bundle(bundle)
    material = contenders.material_of(held, 16, 24, tmp_path)
    choice = gpu_visit.choose(held, "onnxruntime", "fp32")
    with ExitStack() as stack:
        turns, output = contenders.own_turns(held, choice, material, stack)
        assert np.array_equal(output, upscale(material.frames[0]))
        assert {turn.what: len(turn.run(4)) for turn in turns} == {
            "engine": 4, "session": 1, "latency": 4, "pipeline": 1
        }  # fmt: skip
        assert not opened[0].closed
    assert len(opened) == 1
    assert opened[0].closed
    assert opened[0].resets == 2  # a session with a state begins each block anew


def test_a_pipeline_that_loses_frames_is_no_measurement(bundle: Path, tmp_path: Path) -> None:
    material = contenders.material_of(open_bundle(bundle), 16, 24, tmp_path)
    with pytest.raises(GenedgeError, match="6 of 7 frames"):
        contenders.into_nothing(FakeSession(), material.clip, 7)


def test_weights_are_found_by_their_digest(tmp_path: Path) -> None:
    from export.shipped import find_shipped

    shipped = find_shipped("sr-x2")
    assert shipped is not None
    digest = hashlib.sha256(shipped.path.read_bytes()).hexdigest()
    assert contenders.find_weights(digest, []) == shipped.path
    copy = tmp_path / "mine.safetensors"
    copy.write_bytes(shipped.path.read_bytes())
    assert contenders.find_weights(digest, [tmp_path / "missing.pth", copy]) == copy
    with pytest.raises(GenedgeError, match="name it with --weights"):
        contenders.find_weights("0" * 64, [copy])


@pytest.mark.parametrize("who", ["pytorch eager fp32", "pytorch channels-last bf16"])
def test_pytorch_runs_the_generator_itself(tmp_path: Path, who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from benchmarks.gpu_visit import pytorch
    from export.frame_io import reference_output
    from export.generators import load_generator

    weights = write_checkpoint(tmp_path / "net.pth")
    frame = random_frames(1, 16, 24, 3)
    given: list[Any] = []

    def by_clock(step: Callable[[], Any], count: int) -> list[float]:
        given.append(step())
        return [1.0] * count

    monkeypatch.setattr(pytorch, "_by_clock", by_clock)
    turn = pytorch.pytorch_turn(weights, who, frame, "cpu")
    assert (turn.who, turn.what, turn.run(2)) == (who, "engine", [1.0, 1.0])
    loaded, _ = load_generator(weights)
    difference = given[0].numpy()[0].astype(int) - reference_output(loaded, frame[0])
    assert given[0].dtype == torch.uint8
    assert np.abs(difference).max() <= (1 if who.endswith("fp32") else 8)


# --- whole visits -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_torch")
def test_a_visit(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, document = tmp_path / "gpu-results.json", tmp_path / "doc.md"
    document.write_text(f"Before.\n\n{page.MARKS[0]}\nwhat was here\n{page.MARKS[1]}\n\nAfter.\n", encoding="utf-8")
    command = [str(bundle), *SMALL, "-o", str(results), "--table", str(document)]
    code = gpu_visit.main(command)
    rows = rows_of(results)
    assert list(rows) == [
        ("build", "onnxruntime fp32"), ("build", "onnxruntime fp16"),
        ("parity", "onnxruntime fp32"), ("parity", "onnxruntime fp16"),
        ("speed", "all"), ("speed", "pytorch"), ("speed", "onnxruntime fp32"), ("speed", "onnxruntime fp16"),
    ]  # fmt: skip
    assert rows["parity", "onnxruntime fp32"]["figures"]["max_abs"] == 0
    assert rows["speed", "pytorch"]["error"] == "torch is not installed here"
    speed = rows["speed", "onnxruntime fp16"]
    assert {"engine_ms", "session_ms", "latency_ms", "pipeline_ms"} <= set(speed["figures"])
    assert (speed["size"], speed["figures"]["psnr_to_fp32_db"]) == ([16, 24], 100)
    record = read_record(results)
    assert record.finished
    assert code == int(any(target.met is False for target in page.targets(record)))
    text = document.read_text(encoding="utf-8")
    assert text.startswith("Before.")
    assert text.endswith("After.\n")
    assert "| tiny-x2 | onnxruntime fp16 | 24x16 |" in text
    assert "what was here" not in text
    capsys.readouterr()
    assert gpu_visit.main(["-o", str(results)]) == 0  # the tables once more
    assert "Parity with PyTorch" in capsys.readouterr().out


@pytest.mark.usefixtures("_no_torch")
def test_what_an_earlier_visit_has_found_is_never_written_over(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "r.json"
    command = [str(bundle), *SMALL, "--precision", "fp32", "-o", str(results)]
    gpu_visit.main(command)
    before = json.loads(results.read_text(encoding="utf-8"))["rows"]
    assert gpu_visit.main(command) == 2
    assert "go on with --resume" in capsys.readouterr().err
    gpu_visit.main([*command, "--resume", "--precision", "fp32,fp16"])
    after = json.loads(results.read_text(encoding="utf-8"))["rows"]
    assert after[: len(before)] == before
    assert {row["who"] for row in after if row["step"] == "parity"} == {"onnxruntime fp32", "onnxruntime fp16"}
    monkeypatch.setattr(gpu_visit, "conditions", lambda options: {"backend": "onnxruntime", "device": "another"})
    assert gpu_visit.main([*command, "--resume"]) == 2
    assert "this is another" in capsys.readouterr().err


@pytest.mark.usefixtures("_no_torch")
def test_failures_cost_their_rows_and_nothing_else(bundle: Path, tmp_path: Path) -> None:
    results = tmp_path / "r.json"
    places = [str(tmp_path / "nowhere"), str(bundle)]
    assert gpu_visit.main([*places, *SMALL, "--precision", "int8,fp32", "-o", str(results)]) == 1
    rows = rows_of(results)
    assert "no bundle" in rows["open", ""]["error"]
    for step in ("build", "parity", "speed"):
        assert rows[step, "onnxruntime int8"]["error"].startswith("tiny-x2 has no int8-ort variant")
        assert rows[step, "onnxruntime fp32"]["figures"]


@pytest.mark.usefixtures("_no_torch")
def test_an_engine_that_dies_while_it_is_timed(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "open_session", lambda *_, in_flight: FakeSession(fail_at=3))
    results = tmp_path / "r.json"
    gpu_visit.main([str(bundle), *SMALL, "--precision", "fp32", "-o", str(results)])
    row = rows_of(results)["speed", "onnxruntime fp32"]
    assert "fake failure at request 3" in row["error"]
    assert row["figures"]["pipeline_ms"] > 0  # the turns after it still ran


def test_nothing_is_measured_once_the_minutes_are_up(bundle: Path, tmp_path: Path) -> None:
    results = tmp_path / "r.json"
    gpu_visit.main([str(bundle), *SMALL, "--minutes", "1e-9", "-o", str(results)])
    content = json.loads(results.read_text(encoding="utf-8"))
    assert content["finished"]
    assert len(content["rows"]) == 5
    assert all("the time was up" in row["error"] for row in content["rows"])


@pytest.mark.usefixtures("_no_torch")
def test_two_bundles_of_one_name_are_both_measured(bundle: Path, tmp_path: Path) -> None:
    results, other = tmp_path / "r.json", write_small_bundle(tmp_path / "other")
    gpu_visit.main([str(bundle), str(other), *SMALL, "--precision", "fp32", "-o", str(results)])
    rows = json.loads(results.read_text(encoding="utf-8"))["rows"]
    assert [row["bundle"] for row in rows if row["step"] == "parity"] == ["tiny-x2", str(other)]


def test_a_document_without_room_is_refused_before_anything_is_measured(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document, results = tmp_path / "doc.md", tmp_path / "r.json"
    document.write_text("Mine.", encoding="utf-8")
    assert gpu_visit.main([str(bundle), *SMALL, "-o", str(results), "--table", str(document)]) == 2
    assert "to write between" in capsys.readouterr().err
    assert not results.exists()


@pytest.mark.usefixtures("_no_torch")
def test_a_net_with_a_state(tmp_path: Path) -> None:
    results = tmp_path / "r.json"
    bundle = write_recurrent_bundle(tmp_path / "tiny-rrn")
    gpu_visit.main([str(bundle), *SMALL, "--precision", "fp32", "-o", str(results)])
    rows = rows_of(results)
    assert rows["parity", "onnxruntime fp32"]["figures"]["max_abs"] == 0
    assert rows["speed", "onnxruntime fp32"]["figures"]["pipeline_ms"] > 0


def test_without_a_gpu_it_stops_with_one_sentence(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.engines import facts

    def no_driver() -> Any:
        raise GenedgeError("no NVIDIA driver here: install it")

    results = tmp_path / "r.json"
    monkeypatch.setattr(facts, "device_facts", no_driver)
    assert gpu_visit.main([str(bundle), "-o", str(results)]) == 1
    assert capsys.readouterr().err == "error: no NVIDIA driver here: install it\n"
    assert not results.exists()


def test_without_tensorrt_it_says_what_to_install() -> None:
    command = [sys.executable, "-c", HIDDEN, "anything", "-o", "/nonexistent/results.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == 'error: tensorrt is not installed: pip install "genedge[tensorrt]"\n'


#: a process in which neither TensorRT nor what training needs can be imported
HIDDEN = """
import sys
for name in ("tensorrt", "torch", "onnx", "polygraphy"):
    sys.modules[name] = None
from benchmarks.gpu_visit.__main__ import main
sys.exit(main())
"""


# --- on a GPU that is not there ---------------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], fake_tensorrt.Gpu]]:
    """``gpu("11.4")``: a fake GPU with that TensorRT, whose engines are computed by ONNX Runtime."""
    with ExitStack() as stack:

        def make(version: str) -> fake_tensorrt.Gpu:
            cuda = fake_cuda.FakeGpu()
            fake_cuda.install(monkeypatch, cuda)
            made = fake_tensorrt.Gpu(enqueue=lambda stream, work: cuda.enqueue(stream, "enqueue", work))
            stack.enter_context(fake_tensorrt.fake(version, made))
            return made

        yield make


@pytest.mark.usefixtures("_no_torch")
@pytest.mark.parametrize(("version", "built"), [("8.6.0", "fp32"), ("11.4", "fp16")])
def test_a_visit_rehearsed_on_a_fake_gpu(
    tmp_path: Path, gpu: Callable[[str], fake_tensorrt.Gpu], version: str, built: str
) -> None:
    """The script and the runtime's own builder, cache and session; the figures mean nothing."""
    machine, results = gpu(version), tmp_path / "r.json"
    models = dict.fromkeys(("fp32", "fp16", "int8", "int8-strong"), upscale_model())
    limits = dict.fromkeys(models, Limits(psnr_db=45.0))
    bundle = write_small_bundle(tmp_path / "tiny-x2", models=models, limits=limits)
    gpu_visit.main([str(bundle), "--size", "16x24", "--rounds", "1", "-o", str(results)])
    rows = rows_of(results)
    precisions = ("fp32", "fp16", "int8")
    assert all(not rows[step, f"tensorrt {name}"]["error"] for step in ("build", "parity") for name in precisions)
    assert rows["build", "tensorrt fp16"]["figures"]["remark"] == built
    assert rows["parity", "tensorrt int8"]["figures"]["max_abs"] == 0
    speed = rows["speed", "tensorrt fp16"]
    assert {"engine_ms", "session_ms", "latency_ms", "pipeline_ms", "session_over_engine"} <= set(speed["figures"])
    assert {"engine_without_graph_ms", "graph_gain"} <= set(speed["figures"])
    assert speed["figures"]["psnr_to_fp32_db"] == 100
    assert rows["speed", "onnxruntime-cuda fp16"]["error"].startswith("this onnxruntime has no CUDA provider")
    assert len(machine.builds) == 6  # three precisions in two sizes; speed takes them from the cache
    conditions = read_record(results).conditions
    assert conditions["TensorRT"].startswith(version)
    assert conditions["device"] == device_facts().gpu


@pytest.mark.usefixtures("_no_torch")
def test_an_engine_that_cannot_be_built_costs_its_rows(
    tmp_path: Path, bundle: Path, gpu: Callable[[str], fake_tensorrt.Gpu]
) -> None:
    machine, results = gpu("11.4"), tmp_path / "r.json"
    machine.build_fails = True
    assert gpu_visit.main([str(bundle), "--precision", "fp32", "--size", "16x24", "-o", str(results)]) == 0
    rows = rows_of(results)
    assert all("TensorRT" in rows[step, "tensorrt fp32"]["error"] for step in ("build", "parity", "speed"))


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, complaint in (
        (["x", "--precision", "int4"], "unknown precision int4"),
        (["x", "--size", "big"], "no whole number above 0"),
        (["x", "--minutes", "-1"], "no number of minutes"),
    ):
        with pytest.raises(SystemExit) as stopped:
            gpu_visit.main(arguments)
        assert stopped.value.code == 2
        assert complaint in capsys.readouterr().err


# --- targets ----------------------------------------------------------------------------------------------------------


def verdicts(rows: Sequence[Row], backend: str = "tensorrt") -> dict[str, str]:
    record = Record(Path("unused"), {"backend": backend}, list(rows))
    return {target.name: target.verdict for target in page.targets(record)}


def test_parity_targets() -> None:
    found = verdicts(
        [
            Row("parity", "a", "tensorrt fp16", None, {"psnr_db": 44.9, "failures": []}),
            Row("parity", "b", "tensorrt fp16", None, {"psnr_db": 45.0, "failures": []}),
            Row("parity", "a", "tensorrt int8", None, {"psnr_db": 30.0, "failures": ["PSNR 30 dB, needed 40"]}),
            Row("parity", "a", "tensorrt fp32", None, {"psnr_db": 99.0, "failures": []}),
            Row("parity", "b", "tensorrt int8", None, {}, "no int8 variant"),
        ]
    )
    assert found["a tensorrt fp16 PSNR"] == "MISSED"
    assert found["b tensorrt fp16 PSNR"] == "met"
    verdict = [
        found[f"{who} parity"] for who in ("b tensorrt fp16", "a tensorrt int8", "a tensorrt fp32", "b tensorrt int8")
    ]
    assert verdict == ["met", "MISSED", "met", "skipped"]


def test_rate_targets_are_of_our_own_rows_only() -> None:
    figures = {"session_over_engine": 0.96, "pipeline_over_session": 0.89, "graph_gain": 1.2}
    rows = [
        Row("speed", "a", "tensorrt fp16", (4, 6), {**figures, "engine_without_graph_ms": 2.0}),
        Row("speed", "a", "onnxruntime-cuda fp16", (4, 6), {"pipeline_over_session": 0.1}),
        Row("speed", "a", "tensorrt int8", (4, 6), {}, "out of GPU memory"),
    ]
    found = verdicts(rows)
    assert found["a tensorrt fp16 session over engine"] == "met"
    assert found["a tensorrt fp16 pipeline over session"] == "MISSED"
    assert found["a tensorrt fp16 with CUDA graphs over without"] == "met"
    assert found["a tensorrt int8 session over engine"] == "skipped"
    assert not any("onnxruntime-cuda" in name for name in found)
    elsewhere = verdicts([Row("speed", "a", "openvino fp16", (4, 6), figures)], "openvino")
    assert "a openvino fp16 session over engine" not in elsewhere  # nothing is copied there
    assert elsewhere["a openvino fp16 pipeline over session"] == "MISSED"


def flagship(**times: float) -> list[Row]:
    return [
        Row("speed", "sr-x2", who.replace("_", " "), (720, 1280), {"rounds_ms": {"engine": [time, time]}})
        for who, time in times.items()
    ]


def test_flagship_targets() -> None:
    names = ("sr-x2 1280x720 fp16 over torch.compile", "sr-x2 1280x720 int8 over fp16")
    compiled = Row("speed", "sr-x2", page.COMPILED, (720, 1280), {"rounds_ms": {"engine": [1.6]}})
    found = verdicts([*flagship(tensorrt_fp16=1.0, tensorrt_int8=0.9), compiled])
    assert [found[name] for name in names] == ["met", "MISSED"]
    assert [verdicts([])[name] for name in names] == ["skipped", "skipped"]
    none = Row("speed", "sr-x2", "tensorrt int8", (720, 1280), {}, "sr-x2 has no int8 variant")
    record = Record(Path("unused"), {"backend": "tensorrt"}, [*flagship(tensorrt_fp16=1.0), none])
    reasons = [target.measured for target in page.targets(record) if target.name in names]
    assert reasons == [f"{page.COMPILED} was not measured", "sr-x2 has no int8 variant"]


def test_the_modes_of_pytorch_have_the_name_that_the_target_looks_for() -> None:
    from benchmarks.gpu_visit.pytorch import modes

    assert page.COMPILED in modes("cuda")


def test_the_document_has_room_for_the_figures(tmp_path: Path) -> None:
    copy = tmp_path / "gpu-results.md"
    copy.write_bytes((ROOT / "docs" / "gpu-results.md").read_bytes())
    write_markdown(copy, "the tables", page.MARKS)
    before, _, after = (ROOT / "docs" / "gpu-results.md").read_text(encoding="utf-8").partition(page.MARKS[0])
    assert copy.read_text(encoding="utf-8").startswith(f"{before}{page.MARKS[0]}\n\nthe tables\n")
    assert copy.read_text(encoding="utf-8").endswith(after.partition(page.MARKS[1])[2])


def test_a_cut_off_visit_says_so_in_its_table(tmp_path: Path) -> None:
    record = Record(tmp_path / "r.json", {"device": "a GPU"})
    record.add(Row("build", "a", "tensorrt fp16", (720, 1280), {"seconds": 12.34}))
    assert "Cut off before the end." in page.markdown(record)
    assert "| a | tensorrt fp16 | 1280x720 | 12.3 |  |" in page.markdown(record)
    record.finish()
    assert "Cut off" not in page.plain(record)
    assert isinstance(page.targets(record)[0], common.Target)
