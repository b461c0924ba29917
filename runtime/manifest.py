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

from runtime.codes import KINDS as CODE_KINDS
from runtime.codes import MAX_SIZE, Code
from runtime.errors import ManifestError, UsageError
from runtime.frames import SizeRule

FORMAT = 1
MANIFEST_NAME = "manifest.json"
MAX_BYTES = 1 << 20  # 1 MiB; real manifests have a few kilobytes
MAX_SCALE = 16
MAX_SIDE = 1 << 16  # 65536 pixels, twice the side that H.264 can carry

TASKS = ("super-resolution", "translation", "face-deid", "face-detection")
ROLES = ("frame", "code", "state", "image", "head")
DETECTION = "face-detection"
STRIDES = (8, 16, 32)  # input pixels from one anchor point to the next, of a face detector's three levels
HEADS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}  # values that each head of a face detector gives at an anchor point
DTYPES = ("uint8", "float32", "float16", "int64")
INITIALS = ("zeros", "frame")  # what a state holds before the first step
FITS = ("pad", "resize")  # what becomes of frames that are not of the fixed size
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

    A code has the rule for its numbers in ``code``: ``float32 (n, size)``, or a map ``(n, size, h, w)``.
    """

    name: str
    role: str
    dtype: str
    shape: tuple[int | str, ...]
    source: str | None = None
    initial: str | None = None
    code: Code | None = None

    @property
    def is_map(self) -> bool:
        """Whether a code differs from pixel to pixel."""
        return self.role == "code" and len(self.shape) == 4

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the manifest, without what it does not have."""
        content = {key: value for key, value in asdict(self).items() if value is not None}
        if self.code is not None:
            del content["code"]["size"]  # the length of the default says it
            if not self.code.labels:
                del content["code"]["labels"]
        return content


@dataclass(frozen=True)
class Geometry:
    """How input and output sizes relate, and how the frame may be cut.

    ``halo`` is in input pixels: how far away a pixel can still change an output pixel, measured.
    ``fixed_size`` is (height, width) where the graph takes one size only. ``fit`` says what becomes of frames of
    another size then: ``pad`` cuts them into tiles of that size, whose missing pixels repeat the frame's edge, and
    ``resize`` scales the whole frame to that size, and the image back.
    """

    scale: int
    size_rule: SizeRule
    halo: int
    tileable: bool
    fixed_size: tuple[int, int] | None
    fit: str = "pad"


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
    """An input frame and PyTorch's output for it, both PNG.

    ``codes`` has the numbers of a code by its port's name, of a map those that it has everywhere; a code that is not
    there had its default.
    """

    input: FileRef
    output: FileRef
    codes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        content = asdict(self)
        if not self.codes:
            del content["codes"]
        return content


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
        """The output that gives the pictures; of several, the first, which is the main one.

        Raises :class:`UsageError` for a face detector, which has none.
        """
        self.check_gives_images()
        return self.images[0]

    def check_gives_images(self) -> None:
        """Raises :class:`UsageError` where this is a face detector: it gives numbers, so nothing can be shown of it."""
        if self.task == DETECTION:
            raise UsageError(f"{self.name} is a face detector: use it with `python -m runtime deid --detector`")

    @property
    def images(self) -> tuple[Port, ...]:
        """All outputs that give pictures, the main one first; empty for a face detector."""
        return tuple(port for port in self.outputs if port.role == "image")

    def image_called(self, name: str | None) -> Port:
        """The image ``name``, or the main one for None. Raises :class:`UsageError` where there is no such image."""
        self.check_gives_images()
        for port in self.images:
            if name in (None, port.name):
                return port
        names = ", ".join(port.name for port in self.images)
        raise UsageError(f"{self.name} gives no image {str(name)[:80]!r}: choose among {names}")

    @property
    def states(self) -> tuple[Port, ...]:
        """The inputs that carry something from frame to frame; empty for a generator without memory."""
        return tuple(port for port in self.inputs if port.role == "state")

    @property
    def codes(self) -> tuple[Port, ...]:
        """The inputs that take a condition code; empty for a generator without."""
        return tuple(port for port in self.inputs if port.role == "code")

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        rule = self.geometry.size_rule
        geometry: dict[str, Any] = {
            "scale": self.geometry.scale,
            "minimum": rule.minimum,
            "multiple": rule.multiple,
            "halo": self.geometry.halo,
            "tileable": self.geometry.tileable,
            "fixed_size": self.geometry.fixed_size,
        }
        if self.geometry.fit != "pad":  # as a manifest that does not mention it is read
            geometry["fit"] = self.geometry.fit
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
            "golden": [pair.to_dict() for pair in self.golden],
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
    detects = top.choice("task", TASKS) == DETECTION
    sides: list[tuple[str, tuple[Port, ...], str, tuple[str, ...]]] = [
        ("inputs", inputs, "frame", () if detects else ("code", "state"))
    ]
    if not detects:
        sides.append(("outputs", outputs, "image", ("state",)))
    for side, ports, role, others in sides:
        found = [port.shape for port in ports if port.role == role]
        if not found or (role == "frame" and len(found) > 1):
            exactly = "exactly one port" if role == "frame" else "a port"
            raise ManifestError(f"manifest.{side}: needs {exactly} with the role {role}")
        for port in ports:
            if port.role == role and (port.dtype != "uint8" or len(port.shape) != 4 or port.shape[3] != 3):
                raise ManifestError(f"manifest.{side}: the {role} must be uint8 of shape (n, h, w, 3)")
            if port.role != role and port.role not in others:
                raise ManifestError(f"manifest.{side}: the role {port.role} does not belong here")
        if len(set(found)) > 1:
            raise ManifestError(f"manifest.{side}: all with the role {role} must have the shape of the first")
    for side, ports in (("inputs", inputs), ("outputs", outputs)):
        if len({port.name for port in ports}) != len(ports):
            raise ManifestError(f"manifest.{side}: two ports have the same name")
    if twice := {port.name for port in inputs} & {port.name for port in outputs}:  # engines look ports up by name
        raise ManifestError(f"manifest.outputs: an input is called {min(twice)} too")
    for index, port in enumerate(outputs):
        if port.source is not None or port.initial is not None:
            raise ManifestError(f"manifest.outputs[{index}]: only a state among the inputs has a source")
    if any(port.source is not None or port.initial is not None for port in inputs):
        _check_states(inputs, outputs)
        if geometry.boolean("tileable"):
            raise ManifestError("manifest.geometry.tileable: a generator with a state takes whole frames only")
    _check_codes(inputs, outputs)
    if detects:
        _check_heads(next(port for port in inputs if port.role == "frame"), outputs)
        if top.objects("golden", 0, 1000):
            raise ManifestError("manifest.golden: a face detector gives no picture, so it has no golden frames")
    weights = top.object("weights")
    face = top.content.get("face")
    if face is not None and not isinstance(face, dict):
        raise ManifestError("manifest.face: must be an object or null")
    _check_fixed_size(geometry.size("fixed_size"), next(port for port in inputs if port.role == "frame"))
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
            fit=_fit(geometry),
        ),
        artifacts=artifacts,
        limits=limits,
        golden=tuple(
            Golden(_file_ref(reader.object("input")), _file_ref(reader.object("output")), _golden_codes(reader, inputs))
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

    def numbers(self, key: str, at_least: int, at_most: int) -> tuple[float, ...]:
        items = self.get(key)
        if not isinstance(items, list) or not at_least <= len(items) <= at_most:
            raise ManifestError(f"{self.place}.{key}: must be a list of {at_least} to {at_most} numbers")
        each = _Reader({str(index): item for index, item in enumerate(items)}, f"{self.place}.{key}")
        return tuple(each.number(index) for index in each.content)

    def texts(self, key: str, at_most: int) -> tuple[str, ...]:
        items = self.get(key)
        if not isinstance(items, list) or len(items) > at_most or not all(isinstance(item, str) for item in items):
            raise ManifestError(f"{self.place}.{key}: must be a list of at most {at_most} texts")
        return tuple(items)

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
        _code(reader.object("code")) if "code" in reader.content else None,
    )


def _code(reader: _Reader) -> Code:
    default = reader.numbers("default", 1, MAX_SIZE)
    labels = reader.texts("labels", MAX_SIZE) if "labels" in reader.content else ()
    kind, low, high = reader.choice("kind", CODE_KINDS), reader.number("low"), reader.number("high")
    try:
        return Code(kind, len(default), default, low, high, labels)
    except UsageError as error:
        raise ManifestError(f"{reader.place}: {error}") from None


def _check_codes(inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> None:
    """A code's port must be what its rule says, so that an engine never reads beyond an array."""
    frame = next(port for port in inputs if port.role == "frame")
    for side, ports in (("inputs", inputs), ("outputs", outputs)):
        for index, port in enumerate(ports):
            place = f"manifest.{side}[{index}]"
            if port.code is None:
                continue
            if port.role != "code":
                raise ManifestError(f"{place}.code: only a port with the role code has one")
            if port.dtype != "float32":
                raise ManifestError(f"{place}.dtype: a code is float32")
            count, height, width, _ = frame.shape
            if port.shape not in ((count, port.code.size), (count, port.code.size, height, width)):
                raise ManifestError(
                    f"{place}.shape: a code of {port.code.size} numbers is ({count}, {port.code.size}), or as a map "
                    f"({count}, {port.code.size}, {height}, {width}), with the frame's own dimensions"
                )


def _check_heads(frame: Port, outputs: tuple[Port, ...]) -> None:
    """A face detector's outputs are twelve heads, which decoding finds by name, for frames of any size."""
    if not all(isinstance(side, str) for side in frame.shape[1:3]):
        raise ManifestError("manifest.inputs: the frame of a face detector has a free height and width")
    count, taken = frame.shape[0], set(frame.shape)
    anchors: dict[int, int | str] = {}
    wanted = {f"{kind}_{stride}": (stride, size) for stride in STRIDES for kind, size in HEADS.items()}
    for index, port in enumerate(outputs):
        place = f"manifest.outputs[{index}]"
        if port.role != "head":
            raise ManifestError(f"{place}.role: a face detector's outputs are heads, not {port.role}")
        if port.name not in wanted:
            raise ManifestError(f"{place}.name: {port.name[:80]!r} is no head of a face detector: {', '.join(wanted)}")
        if port.dtype != "float32":
            raise ManifestError(f"{place}.dtype: a head is float32")
        stride, size = wanted.pop(port.name)
        anchor = port.shape[1] if len(port.shape) == 3 else 0
        if not isinstance(anchor, str) or anchor in taken or port.shape != (count, anchor, size):
            raise ManifestError(f"{place}.shape: {port.name} is ({count}, a{stride}, {size}), where a{stride} is free")
        if anchors.setdefault(stride, anchor) != anchor or len(set(anchors.values())) != len(anchors):
            raise ManifestError(f"{place}.shape: the heads of one stride share a free dimension of their own")
    if wanted:
        raise ManifestError(f"manifest.outputs: the head {next(iter(wanted))} is missing")


def _golden_codes(reader: _Reader, inputs: tuple[Port, ...]) -> dict[str, tuple[float, ...]]:
    if "codes" not in reader.content:
        return {}
    given = reader.object("codes")
    rules = {port.name: port.code for port in inputs if port.code is not None}
    codes = {}
    for name in given.names():
        rule = rules.get(name)
        if rule is None:
            raise ManifestError(f"{given.place}.{name}: no input is a code of that name")
        codes[name] = given.numbers(name, rule.size, rule.size)
        try:
            rule.check(codes[name])
        except UsageError as error:
            raise ManifestError(f"{given.place}.{name}: {error}") from None
    return codes


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
    image = next((port for port in outputs if port.role == "image"), frame)  # a face detector has none, nor states
    free = free_sizes(frame, image, (1, 1, 1, 3), 1)
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


def _check_fixed_size(fixed_size: tuple[int, int] | None, frame: Port) -> None:
    """A frame whose shape is numbers is of that size only, so nobody may learn it from the engine's complaint."""
    height, width = frame.shape[1:3]
    for place, side in enumerate((height, width)):
        if isinstance(side, int) and (fixed_size is None or fixed_size[place] != side):
            raise ManifestError(
                f"manifest.geometry.fixed_size: the frame is {height}x{width} (height x width), so this must be too"
            )


def _fit(geometry: _Reader) -> str:
    fit = geometry.choice("fit", FITS) if "fit" in geometry.content else "pad"
    if fit == "resize" and geometry.size("fixed_size") is None:
        raise ManifestError("manifest.geometry.fit: resize needs a fixed_size to resize to")
    return fit


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
