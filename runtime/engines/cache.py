"""Engines that were built before: kept by what they belong to, never used for anything else.

``<key>.plan`` is TensorRT's plan, ``<key>.json`` says in readable form what it belongs to; the key is the sha256 of
that. The plan is written first and the side file last, with the plan's sha256, so a plan without one was not finished.
A plan that lies in a bundle is used only where this user has built it, since a plan can hold code.
Whoever builds holds the folder's lock, which the system takes back from a process that dies: two engines that are
built at the same time would also measure each other's disturbance.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.engines.build import Shapes, build_plan, check_settings, write_whole
from runtime.engines.facts import DeviceFacts, version_of
from runtime.engines.settings import EngineSettings
from runtime.errors import GenedgeError
from runtime.folder import user_cache
from runtime.manifest import MANIFEST_NAME

BUILDER = 1  # raised with every change of build.py after which engines are others
FOLDER = "engines"  # in a bundle, and in the user's cache
LOCK = ".lock"
HISTORY = "built.jsonl"  # in the user's cache: the engines that were built here, and how long each took
MOST_SIDE_BYTES = 1 << 16
MOST_HISTORY_BYTES = 1 << 18  # about 1,000 engines
WAIT = 0.2  # seconds between two looks at a lock


@dataclass(frozen=True)
class Engine:
    """A plan that belongs to this GPU. ``built_seconds``: how long it took, None from the cache. ``notes``: sentences
    for the user, which ``progress`` was told as well: why a kept engine was not used, or this one could not be kept."""

    plan: bytes
    built_seconds: float | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Identity:
    """What a plan belongs to. Two engines with the same identity may take each other's place.

    ``tensorrt`` is a major version for version-compatible engines, which later minor versions run too; ``gpu`` and
    ``sm`` are those of all GPUs from Ampere on for hardware-compatible ones.
    """

    tensorrt: str
    gpu: str
    sm: str
    driver: int
    model: str  # sha256 of the ONNX file
    variant: str
    precision: str
    inputs: Mapping[str, tuple[tuple[int, ...], ...]]
    workspace_mib: int | None
    optimization_level: int | None
    dla_core: int | None
    version_compatible: bool
    hardware_compatible: bool

    @classmethod
    def of(
        cls,
        digest: str,
        inputs: Shapes,
        precision: str,
        variant: str,
        facts: DeviceFacts,
        settings: EngineSettings,
    ) -> Identity:
        """The identity of what :func:`engine_for` builds from the same arguments."""
        any_gpu = settings.hardware_compatible
        return cls(
            tensorrt=str(facts.version[0]) if settings.version_compatible else facts.tensorrt,
            gpu="Ampere or later" if any_gpu else facts.gpu,
            sm="80 or later" if any_gpu else _sm(facts),
            driver=facts.driver,
            model=digest,
            variant=variant,
            precision=precision,
            inputs={name: tuple(map(tuple, three)) for name, three in inputs.items()},
            workspace_mib=settings.workspace_mib,
            optimization_level=settings.optimization_level,
            dla_core=settings.dla_core,
            version_compatible=settings.version_compatible,
            hardware_compatible=settings.hardware_compatible,
        )

    @property
    def key(self) -> str:
        """The name of its files: 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """As JSON gives it back."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {"builder": BUILDER, **content}


def engine_folder(bundle: Path | None = None) -> Path:
    """Where engines are kept: in the bundle's folder, else in the user's cache."""
    if bundle is not None:
        return bundle / FOLDER
    users = _users_folder()
    if users is None:
        raise GenedgeError("this user has no home folder to keep engines in: say where with --engine-cache DIR")
    return users


def engine_for(
    model: bytes,
    digest: str,
    inputs: Shapes,
    precision: str,
    variant: str,
    facts: DeviceFacts,
    settings: EngineSettings,
    *,
    folder: Path,
    progress: Callable[[str], None] = lambda text: None,
    refused: str | None = None,
) -> Engine:
    """The engine of a model on this GPU: the one that is kept, else built now and kept.

    Args:
        model: the ONNX file's bytes.
        digest: their sha256, in hexadecimal digits.
        inputs: every input's name -> its smallest, usual and largest shape.
        precision: fp32, fp16 or int8.
        variant: the artifact of the bundle that ``model`` is.
        folder: where engines are kept; made where it is missing. Where it cannot be written, the user's cache takes
            its place, after a look into ``folder``.
        progress: told what the user should know, and while building every second, from another thread, the time taken
            and an estimate.
        refused: TensorRT's words where the plan that this function gave before did not deserialise: it is built anew.

    Raises what :func:`runtime.engines.build.build_plan` raises.
    """
    check_settings(precision, facts, settings)  # before a kept engine hides that it is not possible
    identity = Identity.of(digest, inputs, precision, variant, facts, settings)
    places = _places(folder)
    if refused is None and (plan := _first_kept(places, identity)) is not None:
        return Engine(plan, None)
    with contextlib.ExitStack() as held:
        place, trouble = _lock_one_of(held, places, progress)
        why = f"TensorRT refused the kept engine ({refused})" if refused is not None else None
        if refused is None:
            if (plan := _first_kept(places, identity)) is not None:  # another process has built it meanwhile
                return Engine(plan, None)
            reasons = (_kept(where, identity)[1] or _nearest(where, identity, facts) for where in places)
            why = next(filter(None, reasons), None)
        plan, seconds, notes = _build(model, inputs, identity, facts, settings, place, why, progress)
        record = _remember(identity, facts, len(model), seconds, plan)
        if place is not None:
            trouble = _keep(place, identity, plan, record)
        if trouble is not None:
            notes.append(f"the engine was not kept ({trouble}): the next start builds it again")
            progress(notes[-1])
        elif place != folder:
            notes.append(f"{folder} cannot be written: the engine is kept in {place}")
            progress(notes[-1])
    return Engine(plan, seconds, tuple(notes))


def _build(
    model: bytes,
    inputs: Shapes,
    identity: Identity,
    facts: DeviceFacts,
    settings: EngineSettings,
    place: Path | None,
    why: str | None,
    progress: Callable[[str], None],
) -> tuple[bytes, float, list[str]]:
    """The plan, the seconds it took, and the note that says ``why``, the beginning of a sentence, another one does not
    do. ``place``: where the timing cache lies."""
    estimate = _estimate(identity, len(model), facts)
    expected = f"about {_seconds(estimate)}" if estimate is not None else "first build here"
    of = f" of about {_seconds(estimate)}" if estimate is not None else ""
    what = f"the TensorRT {identity.precision} engine for {_sizes(inputs)}"
    notes = [f"{why}: rebuilding ({expected})"] if why is not None else []
    progress(notes[0] if notes else f"building {what} ({expected})")
    start = time.monotonic()
    plan = build_plan(
        model,
        inputs,
        identity.precision,
        facts,
        settings,
        timing_cache=None if place is None else place / _timings_name(facts),
        progress=lambda text: progress(f"building {what}: {text}{of}"),
    )
    return plan, time.monotonic() - start, notes


# --- what is kept -----------------------------------------------------------------------------------------------------


def _first_kept(places: Sequence[Path], identity: Identity) -> bytes | None:
    plans = (_kept(place, identity)[0] for place in places)
    return next((plan for plan in plans if plan is not None), None)


def _kept(folder: Path, identity: Identity) -> tuple[bytes | None, str | None]:
    """The plan, or why there is none; (None, None) where none was ever kept."""
    plan_file, side_file = _files(folder, identity.key)
    try:
        side = _side(side_file)
        if side is None:
            unfinished = plan_file.exists()
            return None, "the kept engine has no side file, so it was not written to its end" if unfinished else None
        if side.get("identity") != identity.to_dict():
            return None, f"{side_file.name} belongs to another engine"
        plan = plan_file.read_bytes()
    except FileNotFoundError:
        return None, "the plan of the kept engine is missing"
    except ValueError as error:
        return None, f"{side_file.name} is damaged ({error})"
    except OSError as error:
        return None, f"the kept engine cannot be read ({error.strerror})"
    digest = hashlib.sha256(plan).hexdigest()
    if digest != side.get("plan_sha256"):
        return None, f"the kept engine is damaged ({len(plan)} bytes with another sha256 than its side file says)"
    # a plan can hold code, and a bundle comes from anywhere
    if _of_a_bundle(folder) and not any(record.get("plan_sha256") == digest for record in _history()):
        return None, "the engine came with the bundle and is none that this user has built"
    return plan, None


def _of_a_bundle(folder: Path) -> bool:
    return folder.name == FOLDER and (folder.parent / MANIFEST_NAME).exists()


def _side(path: Path) -> dict[str, Any] | None:
    """A side file's content, None where there is none. Raises ``ValueError`` for anything but a JSON object."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_SIDE_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(data) > MOST_SIDE_BYTES:
        raise ValueError(f"more than {MOST_SIDE_BYTES} bytes")
    try:
        content = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    return content


def _keep(folder: Path, identity: Identity, plan: bytes, record: Mapping[str, Any]) -> str | None:
    """Write plan and side file; give why it did not work, or None. The caller holds the folder's lock."""
    plan_file, side_file = _files(folder, identity.key)
    side = {"identity": identity.to_dict(), "built": record, "plan_sha256": hashlib.sha256(plan).hexdigest()}
    try:
        for leftover in (*folder.glob(".*.plan.*"), *folder.glob(".*.json.*")):  # of a process that died while it wrote
            leftover.unlink()
        write_whole(plan_file, plan)
        try:
            write_whole(side_file, json.dumps(side, indent=1).encode())
        except OSError:
            plan_file.unlink()  # it would only take up space
            raise
    except OSError as error:
        return f"{error.strerror or error} in {folder}"
    return None


def _files(folder: Path, key: str) -> tuple[Path, Path]:
    return folder / f"{key}.plan", folder / f"{key}.json"


def _timings_name(facts: DeviceFacts) -> str:
    """TensorRT's timings are of one GPU and one version."""
    gpu = "".join(letter if letter.isalnum() else "-" for letter in facts.gpu)
    return f"timings-{gpu}-sm{_sm(facts)}-{facts.tensorrt}.cache"


# --- why another engine does not do -----------------------------------------------------------------------------------


def _nearest(folder: Path, identity: Identity, facts: DeviceFacts) -> str | None:
    """How the most similar engine of the folder differs from the one that is needed; None without a similar one.

    That is one of the same model, precision and shapes; in a bundle's own folder also one of another model.
    """
    wanted = identity.to_dict()
    same = {"variant", "precision", "inputs"} | (set() if _of_a_bundle(folder) else {"model"})
    nearest: tuple[int, str] | None = None
    with contextlib.suppress(OSError):
        for path in sorted(folder.glob("*.json")):
            try:
                side = _side(path) or {}
            except (OSError, ValueError):
                continue
            found = side.get("identity")
            if not isinstance(found, dict) or any(found.get(name) != wanted[name] for name in same):
                continue
            differing = [name for name, value in wanted.items() if found.get(name) != value]
            if differing and (nearest is None or len(differing) < nearest[0]):
                nearest = len(differing), _difference(found, differing, identity, facts)
    return nearest[1] if nearest is not None else None


def _difference(found: Mapping[str, Any], differing: list[str], identity: Identity, facts: DeviceFacts) -> str:
    """A sentence's beginning: ``engine was built for sm_87 with TensorRT 10.3, this GPU is sm_90 with 11.4``."""
    if "model" in differing:
        return "engine was built from another version of this model"
    if "builder" in differing:
        return "engine was built by another version of genedge"
    then, now = _versions(str(found.get("tensorrt")), facts.tensorrt)
    if not set(_SWITCHES) & set(differing):  # they change what GPU and version mean
        if {"gpu", "sm"} & set(differing):
            by, prefix = ("sm", "sm_") if "sm" in differing else ("gpu", "")
            built, here = str(found.get(by)), str(getattr(identity, by))
            return f"engine was built for {prefix}{built} with TensorRT {then}, this GPU is {prefix}{here} with {now}"
        if "tensorrt" in differing:
            return f"engine was built with TensorRT {then}, this is {now}"
        if "driver" in differing:
            return f"engine was built for a driver of CUDA {found.get('driver')}, this one is of CUDA {identity.driver}"
    said = [
        f"{option} {_value(found.get(name))} instead of {_value(getattr(identity, name))}"
        for name, option in {**_SWITCHES, **_OPTIONS}.items()
        if name in differing
    ]
    return f"engine was built with other settings ({', '.join(said)})"


_OPTIONS = {
    "workspace_mib": "--workspace",
    "optimization_level": "--builder-optimization-level",
    "dla_core": "--dla-core",
}
_SWITCHES = {"version_compatible": "--version-compatible", "hardware_compatible": "--hardware-compatible"}


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "default" if value is None else str(value)


def _versions(then: str, now: str) -> tuple[str, str]:
    """Two versions, as short as they can be told apart."""
    try:
        short = [".".join(map(str, version_of(text))) for text in (then, now)]
    except GenedgeError:
        return then, now
    return (short[0], short[1]) if short[0] != short[1] or then == now else (then, now)


# --- how long it takes ------------------------------------------------------------------------------------------------


def _estimate(identity: Identity, model_bytes: int, facts: DeviceFacts) -> float | None:
    """Seconds that an engine of this variant should take: the median of those that this device has built, each scaled
    by the models' sizes. None before the first."""
    alike = {
        "tensorrt": facts.tensorrt,
        "gpu": facts.gpu,
        "sm": _sm(facts),
        "variant": identity.variant,
        "precision": identity.precision,
    }
    scaled = []
    for record in _history():
        seconds, size = record.get("seconds"), record.get("model_bytes")
        if not isinstance(seconds, (int, float)) or not isinstance(size, int) or seconds <= 0 or size <= 0:
            continue
        if all(record.get(name) == value for name, value in alike.items()):
            scaled.append(seconds * model_bytes / size)
    return statistics.median(scaled) if scaled else None


def _history() -> Iterator[dict[str, Any]]:
    users = _users_folder()
    if users is None:
        return
    try:
        with (users / HISTORY).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_HISTORY_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict):
                yield record


def _remember(identity: Identity, facts: DeviceFacts, model_bytes: int, seconds: float, plan: bytes) -> dict[str, Any]:
    """Append a build to the history, and give what was appended. One that cannot be written is no error."""
    record = {
        "tensorrt": facts.tensorrt,
        "gpu": facts.gpu,
        "sm": _sm(facts),
        "variant": identity.variant,
        "precision": identity.precision,
        "model_bytes": model_bytes,
        "seconds": round(seconds, 3),
        "plan_sha256": hashlib.sha256(plan).hexdigest(),
    }
    users = _users_folder()
    with contextlib.suppress(OSError):
        if users is not None:
            users.mkdir(parents=True, exist_ok=True)
            with (users / HISTORY).open("ab") as file:
                file.write(json.dumps(record).encode() + b"\n")
    return record


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _sizes(inputs: Shapes) -> str:
    """``1280x720``, or from the smallest to the largest frames; of a net with several inputs, those of the first."""
    smallest, _, largest = next(iter(inputs.values()))
    shown = list(dict.fromkeys((_size(smallest), _size(largest))))
    return " to ".join(shown)


def _size(shape: tuple[int, ...]) -> str:
    if len(shape) != 4:
        return "x".join(map(str, shape))
    count, height, width, _ = shape
    return f"{width}x{height}" if count == 1 else f"{count} times {width}x{height}"


def _sm(facts: DeviceFacts) -> str:
    return f"{facts.sm[0]}{facts.sm[1]}"


# --- folders and the lock ---------------------------------------------------------------------------------------------


def _users_folder() -> Path | None:
    try:
        return user_cache() / FOLDER
    except RuntimeError:  # no home
        return None


def _places(folder: Path) -> list[Path]:
    """Where an engine is looked for and kept: ``folder``, and the user's one where that cannot be written."""
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    users = None if os.access(existing, os.W_OK | os.X_OK) else _users_folder()
    return list(dict.fromkeys(filter(None, (folder, users))))


def _lock_one_of(
    held: contextlib.ExitStack, places: Sequence[Path], progress: Callable[[str], None]
) -> tuple[Path | None, str | None]:
    """Lock the first of the places that can be written, until ``held`` ends; else say why none can be."""
    trouble = None
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            held.enter_context(_locked(place, progress))
            return place, None
        except OSError as error:
            trouble = f"{error.strerror or error} in {place}"
    return None, trouble


@contextlib.contextmanager
def _locked(folder: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes, and other threads, out of the folder. Raises ``OSError`` where it cannot be written."""
    with (folder / LOCK).open("ab") as file:
        told = False
        while not _try_lock(file.fileno()):
            if not told:
                progress(f"another process builds an engine in {folder}: waiting for it")
                told = True
            time.sleep(WAIT)
        yield  # closing the file frees it; so does the end of the process


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        os.lseek(handle, 0, os.SEEK_SET)  # it locks from the place of the file's pointer on
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        """False while another one has it. True too on file systems without locks: a build may then be done twice."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True
