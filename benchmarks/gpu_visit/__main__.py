"""Build, check and time bundles on a machine with an NVIDIA GPU, in one run that may be cut off at any time.

``python -m benchmarks.gpu_visit BUNDLES... -o gpu-results.json`` takes the most important first: engines in every
precision, parity with PyTorch on the golden frames, then speed beside PyTorch and ONNX Runtime where they are
installed. Every step that fails costs one row, which says why. It needs neither network nor torch.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.gpu_visit import contenders, page
from benchmarks.gpu_visit.record import Budget, Record, Row, read_record, sentence
from benchmarks.gpu_visit.turns import Taken, Turn, take_turns
from benchmarks.int8.report import around_marks, write_markdown
from runtime.bundle import Bundle, open_bundle
from runtime.engines.settings import EngineOptions
from runtime.errors import EXIT_FAILED, EXIT_OK, GenedgeError, UsageError, guarded
from runtime.frames import Frames
from runtime.sessions import choose, open_session
from runtime.verify import verify

NAME = "gpu_visit"
PRECISIONS = ("fp32", "fp16", "int8")
SIZE = (720, 1280)  # height, width, where a bundle takes any
ROUNDS = 7
MINUTES = 30.0


class Visit:
    """The steps, over all bundles. What a step finds goes into ``record`` at once."""

    def __init__(self, record: Record, budget: Budget, options: argparse.Namespace) -> None:
        self._record, self._budget, self._options = record, budget, options
        self._engines = EngineOptions(progress=common.say)
        self._bundles: dict[str, Bundle] = {}  # by what they are called in the rows

    def run(self) -> None:
        """Everything in the order of importance."""
        for place in self._options.bundles:
            self._open(place)
        for step in (self._build, self._parity):
            for name, bundle in self._bundles.items():
                for precision in self._options.precision:
                    step(name, bundle, precision)
        with tempfile.TemporaryDirectory(prefix="genedge-visit-") as folder:
            for place, (name, bundle) in enumerate(self._bundles.items()):
                self._speed(name, bundle, self._budget.part(len(self._bundles) - place), Path(folder))
        self._record.finish()

    def _open(self, place: str) -> None:
        try:
            bundle = open_bundle(place)
            bundle.manifest.check_gives_images()
            # two may have one name, and a row is known by it
            self._bundles[place if bundle.manifest.name in self._bundles else bundle.manifest.name] = bundle
        except (GenedgeError, OSError) as error:
            self._record.add(Row("open", place, "", error=sentence(error)))

    def _size(self, bundle: Bundle) -> tuple[int, int]:
        """Height and width of the frames that speed is measured on."""
        geometry = bundle.manifest.geometry
        return geometry.fixed_size or geometry.size_rule.padded(*self._options.size)

    def _who(self, precision: str) -> str:
        return f"{self._options.backend} {precision}"

    def _build(self, name: str, bundle: Bundle, precision: str) -> None:
        size = self._size(bundle)

        def build() -> dict[str, Any]:
            self._budget.check()
            common.say(f"building {name} in {precision}")
            choice, begin = choose(bundle, self._options.backend, precision), time.perf_counter()
            with open_session(bundle, choice, in_flight=1, engines=self._engines) as session:
                session.warm_up((1, *size, 3))
                seconds, notes = time.perf_counter() - begin, getattr(session, "notes", ())  # of a TensorRT session
            return {"seconds": seconds, "remark": "; ".join([choice.variant, *notes])}

        self._record.attempt("build", name, self._who(precision), size, build)

    def _parity(self, name: str, bundle: Bundle, precision: str) -> None:
        def parity() -> dict[str, Any]:
            self._budget.check()
            common.say(f"checking {name} in {precision}")
            choice = choose(bundle, self._options.backend, precision)
            verdict = verify(bundle, [choice], self._engines)[0]
            failures = list(verdict.failures)
            return {**verdict.report.figures(), "failures": failures, "remark": "; ".join(failures)}

        self._record.attempt("parity", name, self._who(precision), None, parity)

    # -- speed -----------------------------------------------------------------------------------

    def _speed(self, name: str, bundle: Bundle, budget: Budget, folder: Path) -> None:
        """Every contender's row, and one for all of them together, which says how many rounds there were."""
        size = self._size(bundle)

        def speed() -> dict[str, Any]:
            budget.check()
            with ExitStack() as stack:
                material = contenders.material_of(bundle, *size, folder)
                turns, agreement = self._own_turns(name, bundle, material, budget, stack)
                turns += self._rivals(name, bundle, material, budget, stack)

                def keep(found: Mapping[str, Taken]) -> None:
                    for who, taken in found.items():
                        self._record.put(speed_row(name, who, size, taken, agreement.get(who)))

                common.say(f"timing {name}: {len(turns)} turns a round")
                found = take_turns(turns, self._options.rounds, budget, each_round=keep)
                for who, taken in found.items():
                    self._record.add(speed_row(name, who, size, taken, agreement.get(who)))
            rounds = [len(values) for taken in found.values() for values in taken.rounds.values()]
            return {"remark": f"{max(rounds, default=0)} rounds"}

        self._record.attempt("speed", name, "all", size, speed)

    def _own_turns(
        self, name: str, bundle: Bundle, material: contenders.Material, budget: Budget, stack: ExitStack
    ) -> tuple[list[Turn], dict[str, float]]:
        """Our own contenders, and how many dB the output of each is from that of fp32."""
        reference: Frames | None = None
        turns: list[Turn] = []
        agreement = {}
        for precision in self._options.precision:
            who = self._who(precision)
            with self._missing(name, who, material):
                budget.check()
                choice = choose(bundle, self._options.backend, precision)
                found, output = contenders.own_turns(bundle, choice, material, stack)
                turns += found
                reference = output if precision == "fp32" else reference
                if reference is not None and precision != "fp32":
                    agreement[who] = contenders.agreement(reference, output)
        return turns, agreement

    def _rivals(
        self, name: str, bundle: Bundle, material: contenders.Material, budget: Budget, stack: ExitStack
    ) -> list[Turn]:
        turns: list[Turn] = []
        for precision in ("fp32", "fp16") if self._options.backend == "tensorrt" else ():
            with self._missing(name, f"onnxruntime-cuda {precision}", material):
                budget.check()
                turns += contenders.onnxruntime_cuda_turns(bundle, precision, material, stack)
        with self._missing(name, "pytorch", material):
            if not _installed("torch"):
                raise GenedgeError("torch is not installed here")
            from benchmarks.gpu_visit.pytorch import device_here, modes, pytorch_turn

            device = device_here()
            if device == "cpu" and self._options.backend == "tensorrt":
                raise GenedgeError("torch is installed here, but without CUDA")
            weights = contenders.find_weights(bundle.manifest.weights.sha256, self._options.weights)
            for who in modes(device):
                with self._missing(name, who, material):
                    budget.check()
                    turns.append(pytorch_turn(weights, who, material.frames[0], device))
        return turns

    @contextmanager
    def _missing(self, name: str, who: str, material: contenders.Material) -> Iterator[None]:
        """A contender that cannot be opened costs its row, and the others go on."""
        try:
            yield
        except Exception as error:
            self._record.add(Row("speed", name, who, material.size, error=sentence(error)))


def speed_row(bundle: str, who: str, size: tuple[int, int], taken: Taken, agreement: float | None) -> Row:
    figures = taken.figures()
    if agreement is not None:
        figures["psnr_to_fp32_db"] = agreement
    errors = "; ".join(f"{what}: {words}" for what, words in taken.errors.items())
    return Row("speed", bundle, who, size, figures, errors)


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on. Raises :class:`GenedgeError` in one sentence where the backend cannot run here."""
    facts = device_of(options.backend)
    versions = {package: _version(package) for package in ("torch", "onnxruntime", "openvino") if _installed(package)}
    return {**facts, "backend": options.backend, **common.conditions(facts.get("device")), **versions,
            "minutes": options.minutes, "rounds": options.rounds}  # fmt: skip


def device_of(backend: str) -> dict[str, Any]:
    """The GPU and TensorRT; of a CPU backend its name. Raises where it is not here."""
    if backend != "tensorrt":
        from runtime.sessions import installed_backend

        installed_backend(backend)
        return {}
    from runtime.engines.facts import device_facts

    facts = device_facts()
    return {
        "device": facts.gpu,
        "compute capability": f"{facts.sm[0]}.{facts.sm[1]}",
        "GPU memory GiB": round(facts.memory_bytes / 2**30, 1),
        "TensorRT": facts.tensorrt,
        "driver CUDA": facts.driver,
    }


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:  # another distribution brings the module, such as onnxruntime-gpu
        return "of another name"


def visit(options: argparse.Namespace) -> int:
    """Measure, and show the tables; 1 where a target was missed or a bundle was not opened."""
    if options.table:
        around_marks(options.table, page.MARKS)  # says what is wrong with it now, not when all is measured
    record = begun(options)
    Visit(record, Budget(options.minutes), options).run()
    print(page.plain(record), flush=True)
    if options.table:
        write_markdown(options.table, page.markdown(record), page.MARKS)
    failed = record.of("open") or any(target.met is False for target in page.targets(record))
    return EXIT_FAILED if failed else EXIT_OK


def begun(options: argparse.Namespace) -> Record:
    """An empty record, or with ``--resume`` that of a visit that was cut off on the same device.

    Raises :class:`UsageError` rather than writing over what an earlier visit has found.
    """
    facts = conditions(options)
    if not options.output.exists():
        return Record(options.output, facts)
    if not options.resume:
        raise UsageError(f"{options.output} holds an earlier visit: go on with --resume, or name another file with -o")
    record = read_record(options.output)
    for key in ("backend", "device", "TensorRT"):
        if record.conditions.get(key) != facts.get(key):
            raise UsageError(
                f"{options.output} was measured with {key} {record.conditions.get(key)}, this is {facts.get(key)}: "
                "name another file with -o"
            )
    record.rows = [row for row in record.rows if row.step != "open"]  # it may be there now
    record.finished = False
    return record


def show(options: argparse.Namespace) -> int:
    """The tables of an earlier visit."""
    record = read_record(options.output)
    print(page.plain(record), flush=True)
    if options.table:
        write_markdown(options.table, page.markdown(record), page.MARKS)
    return EXIT_OK


def size(text: str) -> tuple[int, int]:
    """For argparse: HEIGHTxWIDTH in pixels."""
    height, _, width = text.partition("x")
    return common.positive(height), common.positive(width)


def minutes(text: str) -> float:
    """For argparse: a number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes")
    return value


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{NAME}",
        description=(__doc__ or "").split("\n")[0],
        epilog="Exit codes: 0 targets met or skipped by name, 1 one is missed or nothing could be measured, 2 usage.",
    )
    parser.add_argument(
        "bundles", nargs="*", metavar="BUNDLE", help="folders or names of bundles; without any, show what -o holds"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("gpu-results.json"), metavar="FILE",
        help="results, written after every row (default: gpu-results.json)",
    )  # fmt: skip
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the tables into this Markdown file as well")
    parser.add_argument(
        "--backend", choices=("tensorrt", "openvino", "onnxruntime"), default="tensorrt",
        help="another one tries the script out on a CPU (default: tensorrt)",
    )  # fmt: skip
    parser.add_argument(
        "--precision", type=common.names, default=PRECISIONS, metavar="LIST", help="(default: fp32,fp16,int8)"
    )
    parser.add_argument(
        "--size", type=size, default=SIZE, metavar="HxW", help="of frames to time, where a bundle takes any "
        "(default: 720x1280)"
    )  # fmt: skip
    parser.add_argument(
        "--weights", type=Path, nargs="+", default=[], metavar="FILE",
        help="checkpoints for the PyTorch columns, besides the shipped ones; each bundle finds its own",
    )  # fmt: skip
    parser.add_argument(
        "--minutes", type=minutes, default=MINUTES, metavar="N", help="time that there is (default: 30)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the visit in -o: measure what it has not, but no step again "
        "in which it ended"
    )  # fmt: skip
    parser.add_argument("--rounds", type=common.positive, default=ROUNDS, metavar="N", help="(default: 7)")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.precision if name not in (*PRECISIONS, "bf16")]:
        parser.error(f"unknown precision {unknown[0]}: choose among {', '.join(PRECISIONS)}")
    return guarded(lambda: visit(options) if options.bundles else show(options))


if __name__ == "__main__":
    sys.exit(main())
