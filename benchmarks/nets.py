"""The nets that the benchmarks measure, and their bundles: those in ``bundles/``, or built for the occasion."""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import missing, say
from recipes.assets import assets_folder
from runtime.bundle import Bundle, open_bundle, search_folders
from runtime.errors import GenedgeError, UsageError
from runtime.manifest import MANIFEST_NAME


class UnavailableError(GenedgeError):
    """A net that cannot be measured here; the message is the reason that is shown."""


@dataclass(frozen=True)
class Net:
    """A net and where its weights are: ``assets`` is a path below the test material's ``weights`` folder,
    empty for weights that come with genedge. ``family`` is the generator's id."""

    name: str
    family: str
    assets: str = ""

    def weights(self) -> Path:
        """The checkpoint. Raises :class:`UnavailableError` where it is not here."""
        if self.assets:
            path = assets_folder() / "weights" / self.assets
            if not path.is_file():
                raise UnavailableError(missing(path))
            return path
        from export.shipped import find_shipped  # json only, no torch

        shipped = find_shipped(self.name)
        if shipped is None or not shipped.path.is_file():
            raise UnavailableError(f"{self.name} is not among the shipped weights")
        return shipped.path


NETS = (
    Net("sr-x2", "compact"),
    Net("sr-x4", "compact"),
    Net("srgan-x2", "srgan", "srgan_leftthomas/netG_epoch_2_100.pth"),
    Net("srgan-x4", "srgan", "srgan_leftthomas/netG_epoch_4_100.pth"),
    Net("realesr-animevideov3", "srvgg", "realesr_animevideov3/realesr-animevideov3.pth"),
    Net("span-x4", "span", "span_x4/team00_SPAN.pth"),
    Net("candy-nc16", "fast-style", "fast_style_nc16/candy_nc16.pth"),
    Net("mosaic-nc8", "fast-style", "fast_style_nc8/mosaic_nc8.pth"),
    Net("horse2zebra", "cyclegan", "cyclegan_horse2zebra/latest_net_G.pth"),
)
#: nets of luma, whose INT8 is not measured
LUMA = tuple(Net(f"fsrcnn-x{scale}", "fsrcnn", f"fsrcnn/fsrcnn_x{scale}.pth") for scale in (2, 3, 4))
NAMES = tuple(net.name for net in (*NETS, *LUMA))
#: nets with a state, which need runs of frames to be measured with
RECURRENT = (
    Net("mobile-rrn-16", "mobile-rrn", "mobile_rrn/mobile_rrn_16.pth"),
    Net("mobile-rrn-64", "mobile-rrn", "mobile_rrn/mobile_rrn_64.pth"),
)
INT8_BUDGET_DB = 0.1  # against ground truth, what `export build` takes too unless told otherwise


def find_net(name: str) -> Net | None:
    """The net called ``name``, or None (then it is a bundle's folder)."""
    return next((net for net in (*NETS, *LUMA) if net.name == name), None)


def bundle_options(parser: argparse.ArgumentParser, default: tuple[str, ...]) -> None:
    """Add ``--bundle`` (again and again) and ``--built`` to a parser."""
    parser.add_argument(
        "--bundle",
        action="append",
        metavar="BUNDLE",
        help=f"bundle folder, or one of {', '.join(NAMES)}; repeat for several (default: {', '.join(default)})",
    )
    parser.add_argument(
        "--built",
        type=Path,
        metavar="DIR",
        help="keep bundles that have to be built, and look for them, here (default: a temporary folder)",
    )


@contextmanager
def folder_for_built(wanted: Path | None) -> Iterator[Path]:
    """The folder that bundles are built into; a temporary one is removed at the end."""
    if wanted is not None:
        wanted.mkdir(parents=True, exist_ok=True)
        yield wanted
        return
    with tempfile.TemporaryDirectory(prefix="genedge-bundles-") as folder:
        yield Path(folder)


def bundle_of(place: str, built: Path) -> Bundle:
    """Open the bundle ``place``: a folder, or a net's name.

    A net's bundle is taken from ``bundles/``, ``$GENEDGE_BUNDLES`` or ``built`` if it was made from the very weights
    that the net has now, else it is built into ``built``, in a process of its own: torch stays out of this one.

    Raises :class:`UnavailableError` where the weights are not here, ``UsageError`` where ``place`` is neither.
    """
    net = find_net(place)
    if net is None:
        if (Path(place) / MANIFEST_NAME).is_file():
            return open_bundle(place)
        raise UsageError(f"{place} is no bundle's folder, and none of {', '.join(NAMES)}")
    weights = net.weights()
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    for folder in (*search_folders(), built):
        candidate = folder / net.name
        if (candidate / MANIFEST_NAME).is_file():
            bundle = open_bundle(candidate)
            if bundle.manifest.weights.sha256 == digest:
                return bundle
    return _build(net, weights, built)


def int8_bundle_of(net: Net, built: Path, material: Path) -> Bundle:
    """The bundle of ``net`` with INT8 calibrated on the set ``material``, built where ``built`` does not hold it yet.

    It lies in a folder of its own beside the float bundles, and is taken from there only if it was made from the
    weights and the set that are here now.

    Raises :class:`UnavailableError` where the weights are not here.
    """
    from calib.dataset import CalibrationSet

    weights = net.weights()
    digests = hashlib.sha256(weights.read_bytes()).hexdigest(), CalibrationSet.from_paths([material]).digest
    folder = built / f"int8-{material.name}"
    if (folder / net.name / MANIFEST_NAME).is_file():
        bundle = open_bundle(folder / net.name)
        calibrated_on = (int8_record(bundle).get("material") or {}).get("digest")
        if (bundle.manifest.weights.sha256, calibrated_on) == digests:
            return bundle
    options = ("--calib", str(material), "--budget-db", str(INT8_BUDGET_DB))
    return _build(net, weights, folder, options)


def int8_record(bundle: Bundle) -> dict[str, Any]:
    """What the build wrote down about INT8: ``float_layers``, ``dropped``, ``search``, …; empty without INT8."""
    path = bundle.folder / "parity.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return record.get("int8") or {}


def _build(net: Net, weights: Path, folder: Path, options: Sequence[str] = ()) -> Bundle:
    say(f"building {net.name}{' with INT8' if options else ''}")
    source = str(weights) if net.assets else net.name
    command = [sys.executable, "-m", "export", "build", source, "-o", str(folder), "--name", net.name, "--force"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise GenedgeError(f"building {net.name} failed: {reason[0]}")
    return open_bundle(folder / net.name)
