"""Looks into an ONNX file without a graph library: does it point at other files?

An ONNX tensor may live in an "external data" file whose path the model chooses. A bundle never
needs that, and a hostile one could name any file of the machine, so such a model is refused before
an engine sees it. The file is protobuf; only lengths and the few fields on the way to a
``TensorProto`` are read (field numbers: onnx.proto3 of the ONNX project).
"""

from __future__ import annotations

from collections.abc import Iterator

from runtime.errors import ManifestError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# message -> {field number: message inside it}; only paths that can reach a tensor
_NESTED = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
_MAX_DEPTH = 32


def refuse_external_data(model: bytes, name: str) -> None:
    """Raise :class:`ManifestError` where ``model`` is no ONNX file or refers to another file."""
    try:
        if not any(True for _ in _fields(memoryview(model))):
            raise ValueError("it is empty")
        _scan(memoryview(model), "model", 0, name)
    except (ValueError, IndexError) as error:
        raise ManifestError(f"{name}: not an ONNX model ({error})") from None


def _scan(data: memoryview, kind: str, depth: int, name: str) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("messages nested too deeply")
    nested = _NESTED[kind]
    for number, wire, value in _fields(data):
        if kind == "tensor" and (number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value == 1)):
            raise ManifestError(f"{name}: keeps tensors in another file, which a bundle may not")
        if wire == _BYTES and number in nested:
            assert isinstance(value, memoryview)
            _scan(value, nested[number], depth + 1, name)


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        if key >= 1 << 32:  # protobuf drops the upper bits, so that such a key would name another field there than here
            raise ValueError("a field number is too large")
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, position = _varint(data, position)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")
        if position + size > len(data):
            raise ValueError("it is cut off")
        yield number, wire, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if shift > 63:
            raise ValueError("a number is too long")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
