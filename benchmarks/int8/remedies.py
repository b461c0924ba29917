"""What each part of the recipe is worth: all layers in INT8, and one part left out at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import common
from benchmarks.int8.material import PHOTOS_OF, Int8Bundle, choice_of, fitted, outputs_of, pictures
from benchmarks.int8.quality import SETS, Pair, losses, pairs_of
from benchmarks.int8.report import Report
from recipes.assets import assets_folder
from runtime.frames import Frame
from runtime.metrics import compare
from runtime.sessions import session_for
from runtime.tiles import fit_session

if TYPE_CHECKING:
    import onnx

VARIANT = "int8"
OBSERVER = "percentile:99.9999"
OTHER_OBSERVERS = ("max", "percentile", "mse", "entropy")
HEAD = ("net", "all layers in INT8", *(f"{name} loss dB" for name in SETS), "PSNR dB", "ΔE2000")
NOTE = (
    f"Variant {VARIANT} on its engine. Unless a row says otherwise: no layer in float, ranges by {OBSERVER}, and every "
    "part on. Loss as above; PSNR and ΔE2000 against the same bundle's fp32. No row has a target: the table says which "
    "parts are worth keeping."
)


@dataclass(frozen=True)
class _Measured:
    """Frames of one set, their truth (none for nets without one) and what fp32 makes of them."""

    inputs: list[Frame]
    pairs: dict[str, list[Pair]]
    reference: list[Frame]


class Remedies:
    """Measures one net after the other and collects the lines."""

    def __init__(self, report: Report, threads: int) -> None:
        self._report, self._threads = report, threads
        self._rows: list[tuple[str, ...]] = []

    def measure(self, item: Int8Bundle, calibration: Path) -> None:
        """All rows of one net that takes frames one by one."""
        import onnx

        from calib.qdq import Int8Qdq, qdq_from_graph
        from calib.quantise import Int8Config, form_of, named_layers, prepare

        name, manifest = item.net.name, item.bundle.manifest
        model = onnx.load_model_from_string(item.bundle.read_model("fp32"))
        measured = self._measured(item)
        full = Int8Config((calibration,), observer=OBSERVER, threads=self._threads)
        cases = {
            "every part on": full,
            "channels not equalised": replace(full, equalise=False),
            "frames not hardened": replace(full, hardened=False),
            **{f"observer {other}": replace(full, observer=other) for other in OTHER_OBSERVERS},
        }
        for label, config in cases.items():
            common.say(f"{name}: {label}")
            prepared = prepare(model, manifest, config)
            ranges = prepared.tables[config.observer]
            corrected = form_of(VARIANT, prepared.means)
            graphs = {label: corrected.build(prepared.model, ranges, ())}
            if config is full:
                graphs["biases not corrected"] = form_of(VARIANT, None).build(prepared.model, ranges, ())
                uncentred = Int8Qdq(transposed=False, centred=False)
                graphs["pixels not centred, biases not corrected"] = qdq_from_graph(prepared.model, ranges, uncentred)
                for ends in (("first",), ("last",), ("first", "last")):
                    keep = named_layers(prepared.model, ends)
                    graphs[f"{' and '.join(ends)} layer in float"] = corrected.build(prepared.model, ranges, keep)
            for row, graph in graphs.items():
                self._add(item, row, graph, measured)

    def show(self) -> None:
        """Add the table."""
        self._report.add("What each part is worth", HEAD, self._rows, 2, NOTE)

    def _measured(self, item: Int8Bundle) -> _Measured:
        from recipes.evaluation import read_image

        name, scale = item.net.name, item.bundle.manifest.geometry.scale
        pairs: dict[str, list[Pair]] = {}
        if name in PHOTOS_OF:
            inputs = [read_image(path) for path in pictures(assets_folder() / "images" / PHOTOS_OF[name])]
        else:
            pairs = {folder: pairs_of(folder, scale) for folder in SETS}
            inputs = [pair.small for folder in SETS for pair in pairs[folder]]
        with fitted(item.bundle, choice_of("fp32", "openvino"), self._threads) as session:
            return _Measured(inputs, pairs, outputs_of(session, inputs))

    def _add(self, item: Int8Bundle, row: str, graph: onnx.ModelProto, measured: _Measured) -> None:
        manifest = item.bundle.manifest
        opened = session_for(
            graph.SerializeToString(), manifest, choice_of(VARIANT), threads=self._threads, in_flight=1
        )
        with fit_session(opened, manifest.geometry, 1, 1, tile=0) as session:
            outputs = outputs_of(session, measured.inputs)
        report = compare(zip(measured.reference, outputs, strict=True))
        lost: dict[str, float] = {}
        start = 0
        for folder, pairs in measured.pairs.items():
            part = slice(start, start + len(pairs))
            lost[folder] = losses(pairs, measured.reference[part], outputs[part], manifest.geometry.scale)
            start += len(pairs)
        cells = (f"{lost[folder]:.3f}" if folder in lost else "-" for folder in SETS)
        self._rows.append((item.net.name, row, *cells, f"{report.psnr_db:.2f}", f"{report.delta_e:.3f}"))
        self._report.result.figures.append(
            {"part": "remedies", "net": item.net.name, "row": row, "lost": lost, **report.figures()}
        )
