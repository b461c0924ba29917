"""Run every benchmark, each in a process of its own, and sum up: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common
from runtime.report import table, write_json

ALL = ("startup", "parity", "super_resolution", "pipeline", "encoding", "int8", "memory", "live", "native", "privacy")
# these may need bundles, and share them
BUILDING = ("parity", "super_resolution", "pipeline", "encoding", "int8", "memory", "live", "native")
HEAD = ("benchmark", "met", "missed", "skipped", "seconds", "verdict")


def run_one(name: str, quick: bool, folder: Path) -> tuple[dict[str, Any] | None, int, float]:
    """Run one benchmark; its result (None where it broke), exit code and seconds."""
    figures = folder / f"{name}.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(figures)]
    if name in BUILDING:
        command += ["--built", str(folder / "bundles")]
    if quick:
        command.append("--quick")
    print(f"\n=== {name} ===\n", flush=True)
    begin = time.perf_counter()
    code = subprocess.run(command, check=False).returncode
    result = json.loads(figures.read_text(encoding="utf-8")) if figures.is_file() else None
    return result, code, time.perf_counter() - begin


def verdict_of(result: dict[str, Any] | None, code: int) -> str:
    if result is None:
        return f"BROKEN (exit code {code})"
    return "MISSED" if code else "met"


def count(result: dict[str, Any] | None, verdict: str) -> str:
    return "-" if result is None else str(sum(target["verdict"] == verdict for target in result["targets"]))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Run the benchmarks one after the other and print one summary.",
        epilog="Exit codes: 0 targets met or skipped by name, 1 one is missed or a benchmark broke, 2 usage.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones (default: all, that is {', '.join(ALL)})")
    parser.add_argument("--quick", action="store_true", help="small counts, to try it out; not for the record")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results as JSON (- for standard output)")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in ALL]:
        parser.error(f"no benchmark {unknown[0]}: choose among {', '.join(ALL)}")
    rows, results, failed, open_targets = [], [], False, []
    with tempfile.TemporaryDirectory(prefix="genedge-benchmarks-") as folder:
        for name in options.names or ALL:
            result, code, seconds = run_one(name, options.quick, Path(folder))
            failed |= bool(code) or result is None
            counts = [count(result, verdict) for verdict in ("met", "MISSED", "skipped")]
            rows.append((name, *counts, f"{seconds:.0f}", verdict_of(result, code)))
            results.append(result or {"benchmark": name, "broken": True, "exit_code": code})
            for target in (result or {}).get("targets", []):
                if target["verdict"] != "met":
                    line = (name, target["name"], target["measured"], target["wanted"], target["verdict"])
                    open_targets.append(line)
    print("\n=== summary ===\n")
    if options.quick:
        print("quick: small counts, not for the record\n")
    print(table(HEAD, rows, left=1))
    if open_targets:
        print("\n" + table(("benchmark", "target", "measured", "wanted", "verdict"), open_targets, left=5))
    if options.json:
        write_json(options.json, {"conditions": common.conditions(), "quick": options.quick, "results": results})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
