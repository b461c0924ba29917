"""Every bundle, in every precision and on every engine of this machine, against PyTorch on real photos.

PyTorch's output comes from the generator as it was published (``export.frame_io.reference_output``), the other from
the runtime's own sessions. The photos are others than those that ``export build`` measures with.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import common
from benchmarks.nets import LUMA, NETS, UnavailableError, bundle_of, bundle_options, find_net, folder_for_built
from recipes.assets import assets_folder
from runtime.errors import UsageError
from runtime.frames import Frame, SizeRule
from runtime.manifest import Limits
from runtime.metrics import ParityReport

if TYPE_CHECKING:
    from export.parity import VariantParity

NAME = "parity"
DEFAULT_BUNDLES = tuple(net.name for net in (*NETS, *LUMA))

#: precision -> what it must reach. bf16 has 8 bits of precision, about one 8-bit step on a bright pixel.
WANTED = {
    "fp32": Limits(max_abs=1),
    "fp16": Limits(psnr_db=50.0, delta_e=0.3),
    "bf16": Limits(psnr_db=40.0, delta_e=1.0),
}

CROP = (192, 256)  # height, width in pixels: the most detailed place of each photo
ODD = (97, 131)  # two primes, so no layer's stride divides them
HEAD = ("net", "engine", "precision", "frames", "PSNR dB", "SSIM", "ΔE2000", "max", "p99.9", "changed")


def photos(count: int) -> list[Path]:
    """``count`` real photos, half from Kodak, half from CID22's ``val`` part."""
    images = assets_folder() / "images"
    kodak, cid22 = sorted((images / "kodak").glob("*.png")), sorted((images / "cid22").glob("val_*.jpg"))
    return [*kodak[: count - count // 2], *cid22[: count // 2]]


def frames_of(files: list[Path], whole: int) -> list[Frame]:
    """A crop of each photo, a quarter as many of an odd size, and the last ``whole`` photos as they are.

    Each ``uint8 (H, W, 3) BGR``.
    """
    from calib.dataset import CalibrationSet

    material = CalibrationSet.from_paths(files)
    crops = [*material.crops(*CROP, len(files)), *material.crops(*ODD, max(1, len(files) // 4))]
    return [*crops, *material.frames[len(files) - whole :]]


def fitting(frames: list[Frame], rule: SizeRule) -> list[Frame]:
    """The frames, cut down to sizes that the generator takes."""
    result = []
    for frame in frames:
        height, width = (side - side % rule.multiple for side in frame.shape[:2])
        if min(height, width) >= rule.minimum:
            result.append(frame[:height, :width].copy())
    return result


def compare_net(name: str, built: Path, frames: list[Frame]) -> list[VariantParity]:
    """All precisions and engines of one net. Raises :class:`UnavailableError` where it is not here."""
    from export.generators import load_generator
    from export.parity import measure as measure_parity
    from export.parity import reference_pairs

    net = find_net(name)
    if net is None:
        raise UsageError(f"{name}: there is no PyTorch to compare with; choose among {', '.join(DEFAULT_BUNDLES)}")
    bundle = bundle_of(name, built)
    loaded, _ = load_generator(net.weights())
    pairs = reference_pairs(loaded, fitting(frames, loaded.size_rule), lambda text: common.say(f"{name}: {text}"))
    return measure_parity(bundle, pairs, lambda text: common.say(f"{name}: {text}"))


def row_of(name: str, variant: VariantParity) -> tuple[str, ...]:
    """One line of the table."""
    report = variant.report
    return (
        name,
        variant.choice.backend,
        variant.choice.precision,
        str(report.frames),
        *report.cells(),
        f"{report.changed:.4%}",
    )


def judge(label: str, precision: str, report: ParityReport) -> list[common.Target]:
    """One target for each limit of the precision."""
    limits = WANTED.get(precision, Limits())
    targets = []
    if limits.max_abs is not None:
        name = f"{label} largest difference, every pixel"
        targets.append(common.at_most(name, report.max_abs, limits.max_abs, " 8-bit steps", 0))
    if limits.psnr_db is not None:
        targets.append(common.at_least(f"{label} PSNR", report.psnr_db, limits.psnr_db, " dB"))
    if limits.delta_e is not None:
        targets.append(common.at_most(f"{label} colour", report.delta_e, limits.delta_e, " ΔE2000", 3))
    return targets


def families_without_a_net() -> list[common.Target]:
    """Families that the exporter knows and that nothing here measures: named, so that none is forgotten."""
    from export.generators import GENERATORS

    covered = {net.family for net in (*NETS, *LUMA)}
    return [
        common.skipped(f"family {generator.id}", "no weights of it are measured here")
        for generator in GENERATORS
        if generator.id not in covered
    ]


def measure(options: argparse.Namespace) -> common.Result:
    """Every net asked for."""
    result = common.Result(NAME, common.conditions())
    files = photos(options.photos)
    if not files:
        result.targets.append(common.skipped("parity", common.missing(assets_folder() / "images" / "kodak")))
        return result
    frames = frames_of(files, options.whole)
    rows = []
    with folder_for_built(options.built) as built:
        for name in options.bundle or DEFAULT_BUNDLES:
            try:
                variants = compare_net(name, built, frames)
            except UnavailableError as reason:
                result.targets.append(common.skipped(name, str(reason)))
                continue
            for variant in variants:
                choice = variant.choice
                rows.append(row_of(name, variant))
                result.figures.append(
                    {
                        "net": name,
                        "backend": choice.backend,
                        "precision": choice.precision,
                        "variant": choice.variant,
                        **variant.report.figures(),
                    }
                )
                label = f"{name} {choice.backend} {choice.precision}"
                result.targets += judge(label, choice.precision, variant.report)
    if not options.bundle:
        result.targets += families_without_a_net()
    result.conditions["photos"] = f"{len(files)} of Kodak and CID22 val"
    if rows:
        result.add_table(HEAD, rows, left=3)
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = common.parser_for(NAME, __doc__)
    bundle_options(parser, DEFAULT_BUNDLES)
    parser.add_argument("--photos", type=common.positive, metavar="N", help="real photos (default: 12, quick: 2)")
    parser.add_argument(
        "--whole", type=common.not_negative, metavar="N", help="of them also uncropped (default: 1, quick: 0)"
    )
    options = parser.parse_args(arguments)
    options.photos = options.photos or (2 if options.quick else 12)
    options.whole = options.whole if options.whole is not None else 0 if options.quick else 1
    return common.run(NAME, measure, options)


if __name__ == "__main__":
    sys.exit(main())
