"""Check again, on this device and without torch, that a bundle does what PyTorch did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runtime.bundle import Bundle
from runtime.engines.settings import DEFAULT_ENGINES, EngineOptions
from runtime.errors import GenedgeError
from runtime.manifest import Limits, Manifest
from runtime.metrics import ParityReport, compare
from runtime.sessions import TENSORRT_FP16_DB, Choice, open_session


@dataclass(frozen=True)
class Verdict:
    """A variant on an engine: its figures on the golden frames, and what speaks against it."""

    choice: Choice
    report: ParityReport
    failures: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "backend": self.choice.backend,
            "precision": self.choice.precision,
            "variant": self.choice.variant,
            **self.report.figures(),
            "passed": not self.failures,
            "failures": list(self.failures),
        }


def limits_for(manifest: Manifest, choice: Choice) -> Limits | None:
    """The limits of a choice. Those of bfloat16 are its own, since it is a precision but no artifact; those of fp16 are
    the same where TensorRT computes it from the float32 graph."""
    limits = manifest.limits.get(_limits_key(choice))
    if limits is None or limits.psnr_db is None or (choice.backend, choice.precision) != ("tensorrt", "fp16"):
        return limits
    return replace(limits, psnr_db=min(limits.psnr_db, TENSORRT_FP16_DB))


def _limits_key(choice: Choice) -> str:
    return choice.precision if choice.precision in ("bf16", "fp16") else choice.variant


def verify(bundle: Bundle, choices: Iterable[Choice], engines: EngineOptions = DEFAULT_ENGINES) -> list[Verdict]:
    """Run the golden frames through each choice and judge them by the manifest's limits.

    A variant whose file is not the one that was measured at build time fails as well: its figures
    in ``parity.json`` say nothing about it, however small the difference on the golden frames is.

    Raises :class:`GenedgeError` for a bundle without golden frames, for damaged files, and where there is no
    choice to verify, since nothing would have been shown then.
    """
    bundle.manifest.check_gives_images()
    frames = list(bundle.golden_frames())
    if not frames:
        raise GenedgeError(f"{bundle.folder} holds no golden frames to verify against: build it again")
    measured = _measured_digests(bundle)
    verdicts = []
    for choice in choices:
        limits = limits_for(bundle.manifest, choice)
        with open_session(bundle, choice, in_flight=1, engines=engines) as session:
            outputs = []
            for (frame, _), golden in zip(frames, bundle.manifest.golden, strict=True):
                if session.codes:
                    session.set_codes(golden.codes)
                outputs.append(session.infer(frame[None])[0].copy())
        pairs = [(reference, output) for (_, reference), output in zip(frames, outputs, strict=True)]
        report = compare(pairs, limits)
        verdicts.append(Verdict(choice, report, (*report.failures, *_unproven(bundle, choice, limits, measured))))
    if not verdicts:
        raise GenedgeError(f"no engine here runs a variant of {bundle.manifest.name}, so nothing was verified")
    return verdicts


def _measured_digests(bundle: Bundle) -> dict[str, str]:
    record = bundle.parity_record() or {}
    results = record.get("results", [])
    entries: Sequence[Any] = results if isinstance(results, list) else []
    return {str(entry.get("variant")): str(entry.get("sha256")) for entry in entries if isinstance(entry, dict)}


def _unproven(bundle: Bundle, choice: Choice, limits: Limits | None, measured: dict[str, str]) -> Iterable[str]:
    if limits is None or limits == Limits():
        yield f"the manifest states no limits for {_limits_key(choice)}"
    artifact = bundle.manifest.artifacts[choice.variant]
    if choice.variant not in measured:
        yield f"parity.json holds no measurement of {choice.variant}"
    elif measured[choice.variant] != artifact.sha256:
        yield f"{artifact.file} is not the file whose parity was measured at build time"
