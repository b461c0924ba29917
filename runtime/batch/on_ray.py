"""Workers on a Ray cluster: the same tasks, on several machines. Needs the extra ``ray``."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.batch.local import Teller, verdict_on
from runtime.batch.pool import Carrier, Died, Done, Event, Failed, Pool, Told
from runtime.errors import GenedgeError, MissingExtraError, UsageError

#: Cores of a worker unless told otherwise: with more, an engine's threads wait for each other more than they gain.
USUAL_THREADS = 4
KNOCK_SECONDS = 5.0
PROBE_SECONDS = 60.0  # that a machine gets to say what it sees; the first task there starts Python


@dataclass(frozen=True)
class Seen:
    """What every machine must see alike: a file's path, its size in bytes, and the digest of its bytes or None."""

    path: Path
    size: int
    digest: str | None

    @classmethod
    def of(cls, path: Path, *, whole: bool = False) -> Seen:
        """``whole``: also what is in it."""
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if whole else None
        return cls(path, path.stat().st_size, digest)


class Cluster:
    """A connection to a Ray cluster. A context manager: leaving it disconnects, and ends a cluster that it started.

    Args:
        address: ``auto`` for the cluster of this machine, or a new one where there is none; else ``HOST:PORT`` or
            ``ray://HOST:PORT``.
        gpu: each worker gets a GPU of its own.

    Raises :class:`MissingExtraError` without Ray, :class:`GenedgeError` where there is no such cluster.
    """

    def __init__(self, address: str, *, gpu: bool = False) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise MissingExtraError("ray", "ray") from None
        if address != "auto":
            _knock(address)
        self._ray: Any = ray
        self._gpu = gpu
        # of a new cluster: where nobody looks at a dashboard, none is started
        try:
            ray.init(
                address=None if address == "auto" else address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
            )
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise GenedgeError(f"no Ray cluster at {address}: {' '.join(str(error).split())}") from error

    def share(self, threads: int, jobs: int | None) -> tuple[int, int]:
        """(threads of a worker, workers at once) for what the user said, 0 and None where that is nothing.

        Raises :class:`GenedgeError` where no machine has room for a worker.
        """
        nodes = [node["Resources"] for node in self._nodes()]
        cores = [int(node.get("CPU", 0)) for node in nodes]
        if not threads:
            each = max(1, sum(cores) // jobs) if jobs else USUAL_THREADS
            threads = max(1, min(each, max(cores, default=1)))
        room = sum(
            min(count // threads, int(node.get("GPU", 0)) if self._gpu else count)
            for count, node in zip(cores, nodes, strict=True)
        )
        if room < 1:
            needs = f"{threads} cores{' and a GPU' if self._gpu else ''}"
            raise GenedgeError(f"no machine of the Ray cluster has {needs} for a worker: take fewer --threads")
        return threads, jobs or room

    @property
    def machines(self) -> int:
        return len(self._nodes())

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def check(self, seen: Sequence[Seen], out: Path) -> None:
        """Ask every machine whether it sees the same files, and may write to ``out``.

        Raises :class:`GenedgeError` that names one that does not.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ask = self._ray.remote(num_cpus=0, max_retries=0)(_complaint)
        asked = {
            ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                tuple(seen), out
            ): node["NodeManagerHostname"]
            for node in self._nodes()
        }
        for reference, host in asked.items():
            try:
                complaint = self._ray.get(reference, timeout=PROBE_SECONDS)
            except self._ray.exceptions.RayError as error:
                complaint = _said(error)
            if complaint is not None:
                raise GenedgeError(
                    f"{host}: {complaint}: every machine of the cluster needs genedge, and the same inputs, bundles "
                    "and output folder under the same paths"
                )

    def pool(self, jobs: int, threads: int, make: Callable[[], Carrier]) -> RayPool:
        """Workers of so many cores each; ``make`` as of :class:`runtime.batch.local.LocalPool`."""
        return RayPool(self._ray, jobs, {"num_cpus": threads, "num_gpus": int(self._gpu)}, make)

    def close(self) -> None:
        """Disconnect. Calling it twice is harmless."""
        self._ray.shutdown()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _knock(address: str) -> None:
    """Raise where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--ray {address}: give auto, HOST:PORT (such as 10.0.0.2:6379) or ray://HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise GenedgeError(f"no Ray cluster at {address}: {getattr(error, 'strerror', None) or error}") from None


def _complaint(seen: tuple[Seen, ...], out: Path) -> str | None:
    """What is wrong with the files here, None if nothing is. Runs on every machine."""
    for file in seen:
        try:
            here = Seen.of(file.path, whole=file.digest is not None)
        except OSError as error:
            return f"cannot read {file.path} ({error.strerror})"
        if here != file:
            return f"{file.path} is another file there"
    if not os.access(out, os.W_OK):
        return f"may not write to {out}" if out.is_dir() else f"has no folder {out}"
    return None


class RayPool(Pool):
    """Up to ``jobs`` tasks at once on the machines of a cluster; Ray chooses where. ``needs``: resources of each."""

    def __init__(self, ray: Any, jobs: int, needs: dict[str, int], make: Callable[[], Carrier]) -> None:
        self._ray, self._jobs = ray, jobs
        self._make = ray.put(make)
        self._name = uuid.uuid4().hex
        self._board = ray.remote(num_cpus=0, max_restarts=-1)(_Board).remote()
        # retries are the scheduler's; max_calls: a process that holds a GPU is kept too
        self._carry = ray.remote(max_retries=0, max_calls=0, **needs)(_carry)
        self._keys: dict[Any, int] = {}  # reference of a task -> key
        self._news: Any = None  # reference of the board's answer

    @property
    def room(self) -> int:
        return self._jobs - len(self._keys)

    def give(self, key: int, task: Any) -> None:
        self._keys[self._carry.remote(self._name, self._make, self._board, key, task)] = key

    def wait(self, seconds: float) -> list[Event]:
        ready, _ = self._ray.wait(list(self._keys), timeout=seconds) if self._keys else ([], [])
        events = self._told()
        for reference in ready:
            key = self._keys.pop(reference)
            try:
                kind, *rest = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:  # what tasks raise comes as an answer: it did not begin
                events.append(Failed(key, _said(error), final=False))
            except self._ray.exceptions.RayError as error:
                events.append(Died(key, _said(error)))
            else:
                events.append(Done(key, *rest) if kind == "done" else Failed(key, *rest))
        return events

    def _told(self) -> list[Event]:
        """What the board says of tasks that are under way; asked for again once it has answered."""
        events: list[Event] = []
        if self._news is not None and self._ray.wait([self._news], timeout=0)[0]:
            with contextlib.suppress(self._ray.exceptions.RayError):  # the board died: it begins anew, empty
                under_way = set(self._keys.values())
                events = [Told(key, n) for key, n in self._ray.get(self._news).items() if key in under_way]
            self._news = None
        if self._news is None:
            self._news = self._board.read.remote()
        return events

    def close(self) -> None:
        for reference in self._keys:
            with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
                self._ray.cancel(reference, force=True)
        self._keys = {}


class _Board:
    """Where workers write how many frames of their tasks are done."""

    def __init__(self) -> None:
        self._frames: dict[int, int] = {}

    def tell(self, key: int, frames: int) -> None:
        self._frames[key] = frames

    def read(self) -> dict[int, int]:
        """What was told since the last time."""
        news, self._frames = self._frames, {}
        return news


_carriers: dict[str, Carrier] = {}  # of this process, which Ray uses again: name of a pool -> its carrier


def _carry(name: str, make: Callable[[], Carrier], board: Any, key: int, task: Any) -> tuple[Any, ...]:
    """Carry out one task. Runs in a worker."""
    try:
        if name not in _carriers:
            _carriers.clear()
            _carriers[name] = make()
        return "done", _carriers[name](task, Teller(lambda frames: board.tell.remote(key, frames)))
    except Exception as error:
        sentence, final = verdict_on(error)
        return "failed", f"{sentence} (on {socket.gethostname()})", final


def _said(error: Exception) -> str:
    """One sentence of Ray's errors, which bring their traceback along."""
    from ray import exceptions

    cause = getattr(error, "cause", None)
    if isinstance(cause, ModuleNotFoundError):
        return f"{cause.name} is not installed there"
    for kind, sentence in (
        (exceptions.OutOfMemoryError, "its worker was ended for want of memory (take fewer --jobs)"),
        (exceptions.NodeDiedError, "its machine is gone"),
        (exceptions.WorkerCrashedError, "its worker process was ended"),
        (exceptions.GetTimeoutError, f"no answer for {PROBE_SECONDS:.0f} s"),
    ):
        if isinstance(error, kind):
            return sentence
    return str(error).strip().splitlines()[-1]
