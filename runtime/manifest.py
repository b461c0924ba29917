"""The contract between the exporter that writes a bundle and the runtime that reads it (see MANIFEST.md).

Reading is strict, because a bundle can come from anywhere: wrong types, unknown roles, paths that
leave the bundle, duplicate keys and numbers out of range raise :class:`ManifestError`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runtime.errors import ManifestError
from runtime.frames import SizeRule

FORMAT = 1
MANIFEST_NAME = "manifest.json"
MAX_BYTES = 1 << 20  # 1 MiB; real manifests have a few kilobytes
MAX_SCALE = 16
MAX_SIDE = 1 << 16  # 65536 pixels, twice the side that H.264 can carry

TASKS = ("super-resolution", "translation", "face-deid", "face-detection")
ROLES = ("frame", "code", "state", "image")
DTYPES = ("uint8", "float32", "float16", "int64")
INITIALS = ("zeros", "frame")  # what a state holds before the first step
VARIANTS = ("fp32", "fp16", "int8", "int8-strong", "int8-ort")
FLOAT_PRECISIONS = ("fp32", "bf16")
LIMIT_KEYS = (*VARIANTS, "bf16")  # bf16 is a precision of the fp32 artifact with limits of its own

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRef:
    """A file inside the bundle and the SHA-256 of its bytes."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Port:
    """An input or output of the graph. A dimension is a number, or a name where it is free.

    A state among the inputs has two more fields. ``source`` names what it holds: the frame input (the frame of the
    step before), or a state among the outputs (what that was in the step before). ``initial`` is what it holds in the
    first step: ``zeros`` (of a frame: a black one), or ``frame``, which is that step's own frame.
    """

    name: str
    role: str
    dtype: str
    shape: tuple[int | str, ...]
    source: str | None = None
    initial: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the manifest, without what it does not have."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Geometry:
    """How input and output sizes relate, and how the frame may be cut.

    ``halo`` is in input pixels: how far away a pixel can still change an output pixel, measured.
    ``fixed_size`` is (height, width) where the graph takes one size only.
    """

    scale: int
    size_rule: SizeRule
    halo: int
    tileable: bool
    fixed_size: tuple[int, int] | None


@dataclass(frozen=True)
class Artifact:
    """One precision variant of the graph.

    ``float_layers`` names the layers of an INT8 graph that stay in float. ``float_precision`` is what all floats in it
    may be computed in: bf16 where that was measured, and the device has it, else fp32.
    """

    file: str
    sha256: str
    float_layers: tuple[str, ...] = ()
    parity: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    float_precision: str = "fp32"

    def to_dict(self) -> dict[str, Any]:
        content = asdict(self)
        if self.float_precision == "fp32":  # as a manifest that does not mention it is read
            del content["float_precision"]
        return content


@dataclass(frozen=True)
class Limits:
    """What a variant must reach against PyTorch. A value of None is not checked."""

    max_abs: int | None = None
    psnr_db: float | None = None
    delta_e: float | None = None
    changed: float | None = None


@dataclass(frozen=True)
class Golden:
    """An input frame and PyTorch's output for it, both PNG."""

    input: FileRef
    output: FileRef


@dataclass(frozen=True)
class Weights:
    """Where the weights came from."""

    sha256: str
    licence: str
    trained_on: str


@dataclass(frozen=True)
class Manifest:
    name: str
    task: str
    generator: str
    weights: Weights
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    geometry: Geometry
    artifacts: Mapping[str, Artifact]
    limits: Mapping[str, Limits]
    golden: tuple[Golden, ...]
    face: Mapping[str, Any] | None = None

    @property
    def frame(self) -> Port:
        """The input that takes the frames."""
        return next(port for port in self.inputs if port.role == "frame")

    @property
    def image(self) -> Port:
        """The output that gives the pictures."""
        return next(port for port in self.outputs if port.role == "image")

    @property
    def states(self) -> tuple[Port, ...]:
        """The inputs that carry something from frame to frame; empty for a generator without memory."""
        return tuple(port for port in self.inputs if port.role == "state")

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        rule = self.geometry.size_rule
        geometry = {
            "scale": self.geometry.scale,
            "minimum": rule.minimum,
            "multiple": rule.multiple,
            "halo": self.geometry.halo,
            "tileable": self.geometry.tileable,
            "fixed_size": self.geometry.fixed_size,
        }
        limits = {
            variant: {key: value for key, value in asdict(limit).items() if value is not None}
            for variant, limit in self.limits.items()
        }
        content = {
            "format": FORMAT,
            "name": self.name,
            "task": self.task,
            "generator": self.generator,
            "weights": asdict(self.weights),
            "inputs": [port.to_dict() for port in self.inputs],
            "outputs": [port.to_dict() for port in self.outputs],
            "geometry": geometry,
            "face": self.face,
            "artifacts": {variant: artifact.to_dict() for variant, artifact in self.artifacts.items()},
            "limits": limits,
            "golden": [asdict(pair) for pair in self.golden],
        }
        return json.dumps(content, indent=2, allow_nan=False) + "\n"


def parse_manifest(text: str | bytes) -> Manifest:
    """Read the text of a manifest. Raises :class:`ManifestError` with the place of the first mistake."""
    top = json_object(text, "manifest")
    version = top.integer("format", 1, 1 << 31)
    if version > FORMAT:
        raise ManifestError(
            f"manifest: format {version} is newer than format {FORMAT}, which this version reads: update genedge"
        )
    geometry = top.object("geometry")
    artifacts = {
        variant: _artifact(top.object("artifacts").object(variant))
        for variant in top.object("artifacts").keys(VARIANTS)
    }
    if not artifacts:
        raise ManifestError("manifest.artifacts: holds no variant")
    limits = {key: _limits(top.object("limits").object(key)) for key in top.object("limits").keys(LIMIT_KEYS)}
    inputs = tuple(_port(reader) for reader in top.objects("inputs", 1, 64))
    outputs = tuple(_port(reader) for reader in top.objects("outputs", 1, 64))
    for side, ports, role, others in (
        ("inputs", inputs, "frame", ("code", "state")),
        ("outputs", outputs, "image", ("state",)),
    ):
        if sum(port.role == role for port in ports) != 1:
            raise ManifestError(f"manifest.{side}: needs exactly one port with the role {role}")
        for port in ports:
            if port.role == role and (port.dtype != "uint8" or len(port.shape) != 4 or port.shape[3] != 3):
                raise ManifestError(f"manifest.{side}: the {role} must be uint8 of shape (n, h, w, 3)")
            if port.role != role and port.role not in others:
                raise ManifestError(f"manifest.{side}: the role {port.role} does not belong here")
        if len({port.name for port in ports}) != len(ports):
            raise ManifestError(f"manifest.{side}: two ports have the same name")
    for index, port in enumerate(outputs):
        if port.source is not None or port.initial is not None:
            raise ManifestError(f"manifest.outputs[{index}]: only a state among the inputs has a source")
    if any(port.source is not None or port.initial is not None for port in inputs):
        _check_states(inputs, outputs)
        if geometry.boolean("tileable"):
            raise ManifestError("manifest.geometry.tileable: a generator with a state takes whole frames only")
    weights = top.object("weights")
    face = top.content.get("face")
    if face is not None and not isinstance(face, dict):
        raise ManifestError("manifest.face: must be an object or null")
    return Manifest(
        name=top.matching("name", _NAME, "letters, digits, dot, dash and underscore"),
        task=top.choice("task", TASKS),
        generator=top.matching("generator", _NAME, "letters, digits, dot, dash and underscore"),
        weights=Weights(weights.sha256("sha256"), weights.text("licence"), weights.text("trained_on")),
        inputs=inputs,
        outputs=outputs,
        geometry=Geometry(
            scale=geometry.integer("scale", 1, MAX_SCALE),
            size_rule=SizeRule(
                geometry.integer("minimum", 1, MAX_SIDE),
                geometry.integer("multiple", 1, MAX_SIDE),
            ),
            halo=geometry.integer("halo", 0, MAX_SIDE),
            tileable=geometry.boolean("tileable"),
            fixed_size=geometry.size("fixed_size"),
        ),
        artifacts=artifacts,
        limits=limits,
        golden=tuple(
            Golden(_file_ref(reader.object("input")), _file_ref(reader.object("output")))
            for reader in top.objects("golden", 0, 1000)
        ),
        face=face,
    )


def json_object(text: str | bytes, place: str, at_most: int = MAX_BYTES) -> _Reader:
    """Strict reading of one JSON object from outside: size, encoding, keys, numbers; ``place`` begins every complaint.

    Raises :class:`ManifestError`.
    """
    if len(text) > at_most:
        raise ManifestError(f"{place}: {len(text)} bytes, more than the {at_most} allowed")
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")  # json.loads would take UTF-16 and a byte order mark as well
        content = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        # 1e999 and half a surrogate pair can be read, but neither written again nor printed
        json.dumps(content, allow_nan=False, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{place}: not valid JSON ({error})") from None
    return _Reader(content, place)


def safe_member(folder: Path, name: str) -> Path:
    """Path of the file ``name`` inside ``folder``; raises :class:`ManifestError` where it would lie outside."""
    parts = name.split("/")
    if not all(_PART.fullmatch(part) and part != ".." for part in parts):
        raise ManifestError(f"{name!r} is not a plain path inside the bundle")
    path = folder.joinpath(*parts)
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except RuntimeError:  # Python before 3.13: links that lead to each other
        inside = False
    if not inside:
        raise ManifestError(f"{name!r} leads out of the bundle {folder}")
    return path


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


class _Reader:
    """Typed access to one JSON object; every complaint names the place."""

    def __init__(self, content: Any, place: str) -> None:
        if not isinstance(content, dict):
            raise ManifestError(f"{place}: must be an object")
        self.content: dict[str, Any] = content
        self.place = place

    def get(self, key: str) -> Any:
        if key not in self.content:
            raise ManifestError(f"{self.place}.{key}: missing")
        return self.content[key]

    def keys(self, allowed: tuple[str, ...]) -> list[str]:
        unknown = sorted(set(self.content) - set(allowed))
        if unknown:
            raise ManifestError(f"{self.place}: unknown entry {unknown[0][:80]!r}; known: {', '.join(allowed)}")
        return [key for key in allowed if key in self.content]

    def names(self) -> list[str]:
        for key in self.content:
            if not _NAME.fullmatch(key):
                raise ManifestError(
                    f"{self.place}: {key[:80]!r} is no name of letters, digits, dot, dash and underscore"
                )
        return list(self.content)

    def object(self, key: str) -> _Reader:
        return _Reader(self.get(key), f"{self.place}.{key}")

    def objects(self, key: str, at_least: int, at_most: int) -> list[_Reader]:
        items = self.get(key)
        if not isinstance(items, list) or not at_least <= len(items) <= at_most:
            raise ManifestError(f"{self.place}.{key}: must be a list of {at_least} to {at_most} objects")
        return [_Reader(item, f"{self.place}.{key}[{index}]") for index, item in enumerate(items)]

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str) or len(value) > 10_000:
            raise ManifestError(f"{self.place}.{key}: must be a text")
        return value

    def matching(self, key: str, pattern: re.Pattern[str], what: str) -> str:
        value = self.text(key)
        if not pattern.fullmatch(value):
            raise ManifestError(f"{self.place}.{key}: {value[:80]!r} must consist of {what}")
        return value

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in allowed:
            raise ManifestError(f"{self.place}.{key}: {value[:80]!r} is none of {', '.join(allowed)}")
        return value

    def sha256(self, key: str) -> str:
        return self.matching(key, _SHA256, "64 lower-case hexadecimal digits")

    def file(self, key: str) -> str:
        value = self.text(key)
        if not all(_PART.fullmatch(part) and part != ".." for part in value.split("/")):
            raise ManifestError(f"{self.place}.{key}: {value[:80]!r} is not a plain path inside the bundle")
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ManifestError(f"{self.place}.{key}: must be a whole number from {low} to {high}")
        return value

    def number(self, key: str) -> float:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            raise ManifestError(f"{self.place}.{key}: must be a finite number")
        return float(value)

    def boolean(self, key: str) -> bool:
        value = self.get(key)
        if not isinstance(value, bool):
            raise ManifestError(f"{self.place}.{key}: must be true or false")
        return value

    def size(self, key: str) -> tuple[int, int] | None:
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 2:
            raise ManifestError(f"{self.place}.{key}: must be [height, width] or null")
        pair = _Reader({"height": value[0], "width": value[1]}, f"{self.place}.{key}")
        return pair.integer("height", 1, MAX_SIDE), pair.integer("width", 1, MAX_SIDE)


def _file_ref(reader: _Reader) -> FileRef:
    return FileRef(reader.file("file"), reader.sha256("sha256"))


def _port(reader: _Reader) -> Port:
    shape = reader.get("shape")
    if not isinstance(shape, list) or not 0 < len(shape) <= 8:
        raise ManifestError(f"{reader.place}.shape: must be a list of 1 to 8 dimensions")
    for side in shape:
        number = isinstance(side, int) and not isinstance(side, bool) and 0 < side <= MAX_SIDE
        if not number and not (isinstance(side, str) and _NAME.fullmatch(side)):
            raise ManifestError(f"{reader.place}.shape: {repr(side)[:80]} is neither a size nor a name")
    return Port(
        reader.matching("name", _NAME, "letters, digits, dot, dash and underscore"),
        reader.choice("role", ROLES),
        reader.choice("dtype", DTYPES),
        tuple(shape),
        reader.text("source") if "source" in reader.content else None,
        reader.choice("initial", INITIALS) if "initial" in reader.content else None,
    )


def free_sizes(frame: Port, image: Port, shape: tuple[int, ...], scale: int) -> dict[str, int]:
    """The size of every free dimension that a state may have, for frames of ``shape`` (N, H, W, 3).

    It has its name from the frame, or from the image's height or width, which are ``scale`` times those of the frame.
    """
    sizes: dict[int | str, int] = {}
    if image.shape[1] != image.shape[2]:  # else one name would stand for both
        sizes = {image.shape[1]: shape[1] * scale, image.shape[2]: shape[2] * scale}
    sizes |= dict(zip(frame.shape, shape, strict=True))
    return {side: size for side, size in sizes.items() if isinstance(side, str)}


def _check_states(inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> None:
    """What must hold where the states say what feeds them: nothing is left for the runtime to guess."""
    frame = next(port for port in inputs if port.role == "frame")
    results = {port.name: port for port in outputs if port.role == "state"}
    image = next(port for port in outputs if port.role == "image")
    free = free_sizes(frame, image, (1, 1, 1, 3), 1)
    if twice := {port.name for port in inputs} & {port.name for port in outputs}:
        raise ManifestError(f"manifest.outputs: an input is called {min(twice)} too, so a source would be ambiguous")
    fed = set()
    for index, port in enumerate(inputs):
        place = f"manifest.inputs[{index}]"
        if port.role != "state":
            if port.source is not None or port.initial is not None:
                raise ManifestError(f"{place}: only a state among the inputs has a source")
            continue
        if port.source is None or port.initial is None:
            raise ManifestError(f"{place}: a state needs a source and an initial value")
        if port.source == frame.name:
            source = frame
        elif port.source in results:
            source = results[port.source]
        else:
            raise ManifestError(
                f"{place}.source: {port.source[:80]!r} is neither the frame nor a state among the outputs"
            )
        if (port.dtype, port.shape) != (source.dtype, source.shape):
            raise ManifestError(f"{place}: its dtype and shape are not those of its source {source.name}")
        if port.initial == "frame" and (port.dtype, port.shape) != (frame.dtype, frame.shape):
            raise ManifestError(f"{place}.initial: its dtype and shape are not those of the frame")
        for side in port.shape:
            if isinstance(side, str) and side not in free:
                raise ManifestError(
                    f"{place}.shape: {side} is no dimension of the frame or the image, so its size is not known"
                )
        if port.source in fed and source is not frame:
            raise ManifestError(f"{place}.source: {port.source} feeds another state already")
        fed.add(port.source)
    if unused := sorted(set(results) - fed):
        raise ManifestError(f"manifest.outputs: the state {unused[0]} feeds nothing")


def _artifact(reader: _Reader) -> Artifact:
    layers = reader.content.get("float_layers", [])
    if not isinstance(layers, list) or not all(isinstance(layer, str) for layer in layers):
        raise ManifestError(f"{reader.place}.float_layers: must be a list of names")
    figures: dict[str, dict[str, float]] = {}
    if "parity" in reader.content:
        parity = reader.object("parity")
        for engine in parity.names():
            entry = parity.object(engine)
            figures[engine] = {key: entry.number(key) for key in entry.names()}
    floats = reader.choice("float_precision", FLOAT_PRECISIONS) if "float_precision" in reader.content else "fp32"
    return Artifact(reader.file("file"), reader.sha256("sha256"), tuple(layers), figures, floats)


def _limits(reader: _Reader) -> Limits:
    known = reader.keys(("max_abs", "psnr_db", "delta_e", "changed"))
    values = {key: reader.number(key) for key in known if key != "max_abs"}
    max_abs = reader.integer("max_abs", 0, 255) if "max_abs" in known else None
    return Limits(max_abs=max_abs, **values)
