"""How fast the command lines answer, and that the runtime imports neither torch nor onnx.

Every figure is the median of several fresh Python processes; the bare interpreter takes its turn beside them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from benchmarks import common
from runtime.errors import GenedgeError

NAME = "startup"
HELP_SECONDS = 0.3  # for ``python -m export --help``: people take it for instant

COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "python -m export --help": ("-m", "export", "--help"),
    "python -m runtime --help": ("-m", "runtime", "--help"),
    'python -c "import runtime"': ("-c", "import runtime"),
}

#: what is loaded when the command has ended, by the first part of the modules' names
HELP_OF = """
import runpy, sys
sys.argv = [{package!r}, "--help"]
try:
    runpy.run_module({package!r}, run_name="__main__", alter_sys=True)
except SystemExit:
    pass
sys.stderr.write(" ".join(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
#: the same after importing every module of the runtime, whether or not its engine is installed
ALL_OF_RUNTIME = """
import importlib, pkgutil, sys
import runtime
for module in pkgutil.walk_packages(runtime.__path__, "runtime."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
sys.stderr.write(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""
ONLY_RUNTIME = """
import sys
import runtime
sys.stderr.write(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""

FORBIDDEN = (
    ("python -m export --help", HELP_OF.format(package="export"), ("torch",)),
    ("python -m runtime --help", HELP_OF.format(package="runtime"), ("torch", "onnx")),
    ("import runtime", ONLY_RUNTIME, ("torch", "onnx")),
    ("all modules of runtime", ALL_OF_RUNTIME, ("torch", "onnx")),
)


def seconds_of(arguments: tuple[str, ...]) -> float:
    """Time from start to exit of one Python process, in seconds."""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise GenedgeError(f"python {' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    return seconds


def loaded_by(code: str) -> set[str]:
    """Top-level packages that a Python process has loaded after running ``code``."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise GenedgeError(f"a check of imports failed: {done.stderr.strip()[-300:]}")
    return set(done.stderr.split())


def measure(options: argparse.Namespace) -> common.Result:
    """Times, taken in turns, then imports."""
    result = common.Result(NAME, common.conditions() | {"runs": options.runs})
    del result.conditions["threads"]  # no engine runs here
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(options.runs + 1):
        for name, arguments in COMMANDS.items():
            seconds = seconds_of(arguments)
            if turn:  # the first turn fills the disk's cache and writes byte code
                times[name].append(seconds)
    rows = []
    for name, taken in times.items():
        median = statistics.median(taken)
        rows.append((name, f"{1e3 * median:.0f}", f"{1e3 * min(taken):.0f}", f"{1e3 * max(taken):.0f}"))
        result.figures.append({"command": name, "seconds": taken, "median_seconds": median})
    result.add_table(("command", "median ms", "least ms", "most ms"), rows, left=1)
    median = statistics.median(times["python -m export --help"])
    result.targets.append(common.below("python -m export --help", median, HELP_SECONDS, " s", 3))
    for name, code, forbidden in FORBIDDEN:
        found = sorted(loaded_by(code) & set(forbidden))
        wanted = f"no {' nor '.join(forbidden)}"
        result.targets.append(common.Target(f"{name}: imports", ", ".join(found) or "none of them", wanted, not found))
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = common.parser_for(NAME, __doc__)
    parser.add_argument("--runs", type=common.positive, metavar="N", help="runs of each (default: 15, quick: 3)")
    options = parser.parse_args(arguments)
    options.runs = options.runs or (3 if options.quick else 15)
    return common.run(NAME, measure, options)


if __name__ == "__main__":
    sys.exit(main())
