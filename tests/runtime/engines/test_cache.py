"""Kept engines: keys, refusals in words, damage, full disks and other processes."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from bundle_factory import upscale_model
from fake_tensorrt import Gpu, fake, names
from hypothesis import given
from hypothesis import strategies as st

from runtime.engines import cache
from runtime.engines.cache import Engine, Identity, engine_folder, engine_for
from runtime.engines.facts import DeviceFacts
from runtime.engines.settings import EngineSettings
from runtime.errors import GenedgeError, UsageError

MODEL = upscale_model()
DIGEST = hashlib.sha256(MODEL).hexdigest()
SHAPE = (1, 360, 640, 3)
INPUTS = {"frame": (SHAPE, SHAPE, SHAPE)}
HERE = DeviceFacts("11.4.0.106", "NVIDIA H200", (9, 0), 13, 139 << 30)
ORIN = DeviceFacts("10.3.0", "Orin", (8, 7), 12, 32 << 30)
PLAIN = EngineSettings()


@pytest.fixture(autouse=True)
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    return tmp_path / "users" / "genedge" / "engines"


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    found = Gpu()
    with fake("11.4", found):
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "bundle" / "engines"


def ask(folder: Path, said: list[str] | None = None, **other: Any) -> Engine:
    arguments = {
        "model": MODEL,
        "digest": DIGEST,
        "inputs": INPUTS,
        "precision": "fp16",
        "variant": "fp16",
        "facts": HERE,
        "settings": PLAIN,
        **other,
    }
    return engine_for(**arguments, folder=folder, progress=[].append if said is None else said.append)


def files(folder: Path, ending: str) -> list[Path]:
    return sorted(folder.glob(f"*{ending}"))


# --- the way it should go ---------------------------------------------------------------------------------------------


def test_built_once(gpu: Gpu, folder: Path) -> None:
    said: list[str] = []
    first = ask(folder, said)
    assert first.built_seconds is not None
    assert first.notes == ()
    assert said[0] == "building the TensorRT fp16 engine for 640x360 (first build here)"
    said.clear()
    assert ask(folder, said) == Engine(first.plan, None)
    assert said == []
    assert len(gpu.builds) == 1
    (plan,) = files(folder, ".plan")
    assert plan.read_bytes() == first.plan
    assert len(plan.stem) == 64


def test_the_side_file_can_be_read_by_people(gpu: Gpu, folder: Path) -> None:
    ask(folder, settings=EngineSettings(workspace_mib=256))
    (side,) = files(folder, ".json")
    content = json.loads(side.read_text())
    identity = content["identity"]
    assert (identity["tensorrt"], identity["gpu"], identity["sm"]) == ("11.4.0.106", "NVIDIA H200", "90")
    assert identity["inputs"] == {"frame": [list(SHAPE)] * 3}
    assert identity["workspace_mib"] == 256
    assert content["built"]["seconds"] >= 0


def test_timings_are_shared_by_the_folders_engines(gpu: Gpu, folder: Path) -> None:
    ask(folder)
    ask(folder, precision="fp32", variant="fp32")
    assert [record["timings"] for record in gpu.builds] == [b"", b"timed;"]
    assert [path.name for path in files(folder, ".cache")] == ["timings-NVIDIA-H200-sm90-11.4.0.106.cache"]


def test_nothing_else_is_left_behind(gpu: Gpu, folder: Path) -> None:
    ask(folder)
    assert {path.suffix or path.name for path in folder.iterdir()} == {".plan", ".json", ".cache", ".lock"}


def test_an_engine_that_came_with_a_bundle_is_not_run(gpu: Gpu, folder: Path, users: Path) -> None:
    """A plan can hold code, and a bundle comes from anywhere."""
    folder.mkdir(parents=True)
    (folder.parent / "manifest.json").write_text("{}")
    own = ask(folder)
    assert ask(folder) == Engine(own.plan, None)
    (users / cache.HISTORY).unlink()  # now it is another user's
    said: list[str] = []
    assert ask(folder, said).built_seconds is not None
    assert said[0].startswith("the engine came with the bundle and is none that this user has built: rebuilding")
    assert len(gpu.builds) == 2
    assert ask(folder).built_seconds is None


def test_the_folder_of_a_bundle_and_of_the_user(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_folder(Path("bundles/x")) == Path("bundles/x/engines")
    assert engine_folder() == users
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(GenedgeError, match="--engine-cache"):
        engine_folder()


# --- keys -------------------------------------------------------------------------------------------------------------

shapes = st.lists(st.integers(1, 4096), min_size=1, max_size=4).map(tuple)
identities = st.builds(
    Identity,
    tensorrt=st.sampled_from(["8.6.0", "10.3.0", "10.3", "11"]),
    gpu=st.text(max_size=8),
    sm=st.sampled_from(["87", "90"]),
    driver=st.integers(11, 13),
    model=st.text("0123456789abcdef", min_size=4, max_size=4),
    variant=st.sampled_from(["fp32", "fp16", "int8"]),
    precision=st.sampled_from(["fp32", "fp16", "int8"]),
    inputs=st.dictionaries(st.sampled_from(["frame", "code"]), st.tuples(shapes, shapes, shapes), min_size=1),
    workspace_mib=st.none() | st.integers(1, 3),
    optimization_level=st.none() | st.integers(0, 5),
    dla_core=st.none() | st.integers(0, 1),
    version_compatible=st.booleans(),
    hardware_compatible=st.booleans(),
)


@given(identities, identities, st.sampled_from([field.name for field in fields(Identity)]))
def test_any_field_changes_the_key(one: Identity, other: Identity, name: str) -> None:
    changed = replace(one, **{name: getattr(other, name)})
    assert (changed.key == one.key) == (getattr(one, name) == getattr(other, name))
    assert (one.key == other.key) == (one == other)


@pytest.mark.parametrize(
    "other",
    [
        {"facts": replace(HERE, tensorrt="11.4.0.107")},
        {"facts": replace(HERE, gpu="NVIDIA H100")},
        {"facts": replace(HERE, sm=(10, 0))},
        {"facts": replace(HERE, driver=14)},
        {"digest": "0" * 64},
        {"precision": "fp32"},
        {"variant": "fp32"},
        {"inputs": {"frame": (SHAPE, SHAPE, (2, 360, 640, 3))}},
        {"inputs": {"frames": (SHAPE, SHAPE, SHAPE)}},
        {"settings": EngineSettings(workspace_mib=1)},
        {"settings": EngineSettings(optimization_level=3)},
        {"settings": EngineSettings(version_compatible=True)},
        {"settings": EngineSettings(hardware_compatible=True)},
    ],
)
def test_what_is_asked_for_changes_the_key(other: dict[str, Any]) -> None:
    same = {"digest": DIGEST, "inputs": INPUTS, "precision": "fp16", "variant": "fp16", "facts": HERE}
    assert Identity.of(**{**same, "settings": PLAIN, **other}).key != Identity.of(**same, settings=PLAIN).key


def test_what_does_not_change_an_engine_does_not_change_the_key() -> None:
    def key(**other: Any) -> str:
        same: dict[str, Any] = {"digest": DIGEST, "precision": "fp16", "variant": "fp16", "settings": PLAIN}
        return Identity.of(**{**same, "facts": HERE, "inputs": INPUTS, **other}).key

    assert key(facts=replace(HERE, memory_bytes=1)) == key()
    assert key(settings=EngineSettings(timing_cache=Path("x"))) == key()
    two = {"a": INPUTS["frame"], "b": INPUTS["frame"]}
    assert key(inputs=two) == key(inputs=dict(reversed(two.items())))


def test_engines_for_several_gpus_and_versions_are_found_by_them(gpu: Gpu, folder: Path) -> None:
    settings = EngineSettings(version_compatible=True, hardware_compatible=True)
    built = ask(folder, settings=settings)
    other = replace(HERE, tensorrt="11.5.0.1", gpu="NVIDIA L4", sm=(8, 9))
    assert ask(folder, settings=settings, facts=other) == Engine(built.plan, None)
    assert ask(folder, settings=settings, facts=replace(other, tensorrt="12.0.0.1")).built_seconds is not None


# --- refusals in words ------------------------------------------------------------------------------------------------


def refusal(folder: Path, facts: DeviceFacts = HERE, **other: Any) -> str:
    """What is said about the engine that ``HERE`` built before."""
    said: list[str] = []
    engine = ask(folder, said, facts=facts, **other)
    assert engine.built_seconds is not None
    (note,) = engine.notes
    assert note == said[0]
    return note


def test_an_engine_of_another_gpu(folder: Path) -> None:
    with fake("10.3.0", Gpu(sm=(8, 7))):
        ask(folder, facts=ORIN)
    with fake("11.4"):
        assert refusal(folder) == (
            "engine was built for sm_87 with TensorRT 10.3, this GPU is sm_90 with 11.4: rebuilding (first build here)"
        )


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"tensorrt": "11.5.0.2"}, "engine was built with TensorRT 11.4, this is 11.5"),
        ({"tensorrt": "11.4.0.107"}, "engine was built with TensorRT 11.4.0.106, this is 11.4.0.107"),
        (
            {"gpu": "NVIDIA H100"},
            "engine was built for NVIDIA H200 with TensorRT 11.4, this GPU is NVIDIA H100 with 11.4",
        ),
        ({"driver": 14}, "engine was built for a driver of CUDA 13, this one is of CUDA 14"),
    ],
)
def test_what_differs_is_said(gpu: Gpu, folder: Path, facts: dict[str, Any], says: str) -> None:
    ask(folder)
    assert refusal(folder, replace(HERE, **facts)).startswith(f"{says}: rebuilding (")


def test_other_settings_are_said(gpu: Gpu, folder: Path) -> None:
    ask(folder, settings=EngineSettings(optimization_level=1))
    text = refusal(folder, settings=EngineSettings(workspace_mib=512, version_compatible=True))
    assert text.startswith(
        "engine was built with other settings (--version-compatible off instead of on, --workspace default instead of "
        "512, --builder-optimization-level 1 instead of default): rebuilding"
    )


def test_the_most_similar_engine_is_compared(gpu: Gpu, folder: Path) -> None:
    ask(folder, facts=replace(HERE, gpu="A", sm=(8, 0), driver=12))
    ask(folder, facts=replace(HERE, driver=12))
    assert "a driver of CUDA 12" in refusal(folder)


@pytest.mark.parametrize(
    "other",
    [
        {"precision": "fp32", "variant": "fp32"},
        {"inputs": {"frame": ((1, 64, 64, 3),) * 3}},
        {"digest": "1" * 64},
    ],
)
def test_another_engine_is_no_refusal(gpu: Gpu, folder: Path, other: dict[str, Any]) -> None:
    ask(folder)
    assert ask(folder, **other).notes == ()


def test_in_a_bundle_another_model_is_an_older_one(gpu: Gpu, folder: Path) -> None:
    ask(folder)
    (folder.parent / "manifest.json").write_text("{}")
    assert refusal(folder, digest="1" * 64).startswith("engine was built from another version of this model: rebuild")


def test_a_builder_that_builds_differently_builds_again(
    gpu: Gpu, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(folder)
    monkeypatch.setattr(cache, "BUILDER", cache.BUILDER + 1)
    assert refusal(folder).startswith("engine was built by another version of genedge: rebuilding (")


def test_tensorrt_refuses_what_is_kept(gpu: Gpu, folder: Path) -> None:
    ask(folder)
    said: list[str] = []
    engine = ask(folder, said, refused="Magic tag does not match")
    assert engine.built_seconds is not None
    assert said[0].startswith("TensorRT refused the kept engine (Magic tag does not match): rebuilding (about 0 s)")
    assert ask(folder).built_seconds is None


def test_a_setting_that_is_not_possible_is_no_hit(gpu: Gpu, folder: Path) -> None:
    with pytest.raises(UsageError):
        ask(folder, settings=EngineSettings(optimization_level=9))
    assert not folder.exists()


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda plan, side: side.unlink(), "has no side file, so it was not written to its end"),
        (lambda plan, side: plan.unlink(), "the plan of the kept engine is missing"),
        (lambda plan, side: plan.write_bytes(plan.read_bytes()[:-1]), "is damaged"),
        (lambda plan, side: plan.write_bytes(plan.read_bytes()[:-1] + b"x"), "is damaged"),
        (lambda plan, side: plan.write_bytes(b""), "is damaged (0 bytes"),
        (lambda plan, side: side.write_text(side.read_text()[:50]), "is damaged"),
        (lambda plan, side: side.write_text("[]"), "is damaged (no JSON object)"),
        (lambda plan, side: side.write_bytes(b"\xff\x00"), "is damaged"),
        (lambda plan, side: side.write_text("[" * 60_000), "is damaged"),
        (lambda plan, side: side.write_text(" " * 70_000), "is damaged (more than 65536 bytes)"),
        (lambda plan, side: side.write_text("{}"), "belongs to another engine"),
        (lambda plan, side: side.write_text(side.read_text().replace("H200", "H201")), "belongs to another engine"),
        (lambda plan, side: (plan.unlink(), plan.mkdir()), "cannot be read (Is a directory)"),
    ],
)
def test_damage_is_said_and_repaired(gpu: Gpu, folder: Path, damage: Any, says: str) -> None:
    ask(folder)
    damage(*files(folder, ".plan"), *files(folder, ".json"))
    said: list[str] = []
    engine = ask(folder, said)
    assert says in said[0]
    assert ": rebuilding (" in said[0]
    assert engine.plan.startswith(b"ftrt")
    if not any(path.is_dir() for path in folder.iterdir()):
        assert ask(folder) == Engine(engine.plan, None)


def test_a_side_file_of_nonsense_beside_it_stops_nothing(gpu: Gpu, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "a.json").write_text("{")
    (folder / "b.json").write_text('{"identity": 3}')
    (folder / "c.json").write_text('{"identity": {"variant": "fp16", "precision": "fp16"}}')
    assert ask(folder).notes == ()


def test_what_a_killed_process_was_writing_is_removed(gpu: Gpu, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / ".abc.plan.x1y2").write_bytes(b"half")
    ask(folder)
    assert not (folder / ".abc.plan.x1y2").exists()


# --- disks and rights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".plan", ".json"])
def test_a_full_disk_costs_the_cache_not_the_engine(
    gpu: Gpu, folder: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    whole = cache.write_whole

    def write(path: Path, data: bytes) -> None:
        if path.suffix == ending:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(path, data)

    monkeypatch.setattr(cache, "write_whole", write)
    said: list[str] = []
    engine = ask(folder, said)
    assert engine.plan
    (note,) = engine.notes
    assert note == said[-1]
    assert note == f"the engine was not kept (No space left on device in {folder}): the next start builds it again"
    assert files(folder, ".plan") == files(folder, ".json") == []


def test_a_folder_that_cannot_be_made(gpu: Gpu, folder: Path, users: Path) -> None:
    for place in (folder.parent, users.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"a file")
    engine = ask(folder)
    assert engine.plan
    assert "was not kept" in engine.notes[-1]


def test_a_bundle_that_cannot_be_written(gpu: Gpu, folder: Path, users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only disk; the tests may run as root, who may write anywhere else."""
    shipped = ask(folder)
    listing = sorted(folder.iterdir())
    monkeypatch.setattr(os, "access", lambda path, mode: folder.parent not in (path, *Path(path).parents))
    locked = cache._locked

    def locked_elsewhere(place: Path, progress: Any) -> Any:
        if place == folder:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return locked(place, progress)

    monkeypatch.setattr(cache, "_locked", locked_elsewhere)
    assert ask(folder) == Engine(shipped.plan, None)  # what it came with is used
    engine = ask(folder, precision="fp32", variant="fp32")
    assert engine.notes == (f"{folder} cannot be written: the engine is kept in {users}",)
    assert ask(folder, precision="fp32", variant="fp32") == Engine(engine.plan, None)
    assert sorted(folder.iterdir()) == listing


def test_another_folder_is_not_searched_where_this_one_can_be_written(gpu: Gpu, folder: Path, users: Path) -> None:
    ask(users)
    assert ask(folder).built_seconds is not None
    assert len(files(folder, ".plan")) == 1


# --- how long it takes ------------------------------------------------------------------------------------------------


def history(users: Path, *seconds: float, **other: Any) -> None:
    users.mkdir(parents=True, exist_ok=True)
    record = {"tensorrt": "11.4.0.106", "gpu": "NVIDIA H200", "sm": "90", "variant": "fp16", "precision": "fp16"}
    with (users / "built.jsonl").open("a") as file:
        for taken in seconds:
            file.write(json.dumps({**record, "model_bytes": len(MODEL), "seconds": taken, **other}) + "\n")


def test_the_estimate_is_the_median_scaled_by_size(gpu: Gpu, folder: Path, users: Path) -> None:
    history(users, 10, 20, 1000)
    history(users, 60, model_bytes=len(MODEL) * 2)
    said: list[str] = []
    ask(folder, said)
    assert said[0].endswith("(about 25 s)")  # between 20 and 30


@pytest.mark.parametrize(
    "other",
    [
        {"sm": "87"},
        {"gpu": "Orin"},
        {"tensorrt": "10.3"},
        {"variant": "int8"},
        {"precision": "fp32"},
        {"seconds": "long"},
        {"seconds": 0},
        {"model_bytes": 0},
        {"model_bytes": None},
    ],
)
def test_other_builds_say_nothing_about_this_one(gpu: Gpu, folder: Path, users: Path, other: dict[str, Any]) -> None:
    history(users, 10, **other)
    with (users / "built.jsonl").open("ab") as file:
        file.write(b"\xff{\n[]\n" + b"[" * 50_000)  # cut off by a power loss
    said: list[str] = []
    ask(folder, said)
    assert said[0].endswith("(first build here)")


def test_builds_of_another_bundle_count(gpu: Gpu, folder: Path, tmp_path: Path) -> None:
    ask(folder)
    said: list[str] = []
    ask(tmp_path / "other" / "engines", said)
    assert said[0].endswith("(about 0 s)")


def test_long_builds_are_told_in_minutes(gpu: Gpu, folder: Path, users: Path) -> None:
    history(users, 300)
    said: list[str] = []
    ask(folder, said, inputs={"frame": ((1, 64, 64, 3), SHAPE, (4, 720, 1280, 3))})
    assert said[0] == "building the TensorRT fp16 engine for 64x64 to 4 times 1280x720 (about 5 min)"


def test_the_time_taken_is_told_while_building(
    gpu: Gpu, folder: Path, users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.engines import build

    monkeypatch.setattr(build, "TICK", 0.01)
    history(users, 40)
    said: list[str] = []
    told = threading.Event()

    def progress(text: str) -> None:
        said.append(text)
        if len(said) > 1:
            told.set()

    gpu.while_building = lambda: told.wait(5) or None  # type: ignore[func-returns-value]
    engine_for(MODEL, DIGEST, INPUTS, "fp16", "fp16", HERE, PLAIN, folder=folder, progress=progress)
    assert said[1] == "building the TensorRT fp16 engine for 640x360: 0 s of about 40 s"


def test_a_failed_build_leaves_nothing(gpu: Gpu, folder: Path, users: Path) -> None:
    gpu.build_fails = True
    with pytest.raises(GenedgeError):
        ask(folder)
    assert [path.name for path in folder.iterdir()] == [".lock"]
    assert not (users / "built.jsonl").exists()
    gpu.build_fails = False
    assert ask(folder).built_seconds is not None


# --- two at once ------------------------------------------------------------------------------------------------------


def _other_process(folder: Path, mark: Path, seconds: float) -> None:
    """Build an engine that takes ``seconds``; ``mark`` gets a line when the build begins and when all is done."""

    def work() -> None:
        with mark.open("a") as file:
            file.write("builds\n")
        time.sleep(seconds)

    with fake("11.4", Gpu(while_building=work)):
        engine = ask(folder)
    with mark.open("a") as file:
        file.write("built\n" if engine.built_seconds is not None else "found\n")


def _wait_for(mark: Path, line: str) -> None:
    until = time.monotonic() + 30
    while not mark.exists() or line not in mark.read_text():
        assert time.monotonic() < until, f"{line} did not come"
        time.sleep(0.01)


def _start(*arguments: Any) -> Any:
    process = multiprocessing.get_context("fork").Process(target=_other_process, args=arguments)
    process.start()
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="starts its processes by fork")
def test_the_second_process_waits_and_uses_what_the_first_built(folder: Path, tmp_path: Path) -> None:
    marks = [tmp_path / "first", tmp_path / "second"]
    first = _start(folder, marks[0], 0.6)
    _wait_for(marks[0], "builds")
    second = _start(folder, marks[1], 0.0)
    for process in (first, second):
        process.join(30)
        assert process.exitcode == 0
    assert marks[0].read_text() == "builds\nbuilt\n"
    assert marks[1].read_text() == "found\n"


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process as POSIX does")
def test_a_process_that_was_killed_holds_nothing(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    first = _start(folder, mark, 60)
    _wait_for(mark, "builds")
    said: list[str] = []
    result: list[Engine] = []
    with fake("11.4"):
        waiting = threading.Thread(target=lambda: result.append(ask(folder, said)))
        waiting.start()
        until = time.monotonic() + 10
        while not said and time.monotonic() < until:
            time.sleep(0.01)
        assert said == [f"another process builds an engine in {folder}: waiting for it"]
        assert not result
        os.kill(first.pid, signal.SIGKILL)
        first.join(10)
        waiting.join(10)
    assert result[0].built_seconds is not None
    assert files(folder, ".plan")


def test_two_threads_build_once(gpu: Gpu, folder: Path) -> None:
    begun = threading.Barrier(2)

    def one(results: list[Engine]) -> None:
        begun.wait()
        results.append(ask(folder))

    gpu.while_building = lambda: time.sleep(0.05)
    results: list[Engine] = []
    threads = [threading.Thread(target=one, args=(results,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(gpu.builds) == 1
    assert sorted(engine.built_seconds is None for engine in results) == [False, True]


def test_a_file_system_without_locks(gpu: Gpu, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "win32":
        import fcntl

        def none(handle: int, operation: int) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", none)
        assert ask(folder).notes == ()


def test_the_fake_is_of_the_version_that_the_facts_say() -> None:
    assert names("11.4").version == HERE.tensorrt
    assert names("10.3.0").version == ORIN.tensorrt
