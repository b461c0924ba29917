"""Protocol buffers as text, as far as configurations need it: https://protobuf.dev/reference/protobuf/textformat-spec/."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias


class Word(str):
    """A value that stands without quotes: the name of an enum's member."""


Scalar: TypeAlias = str | int | float  # a bool is an int
Message: TypeAlias = Mapping[str, Any]  # field -> a scalar, a message, or a sequence of either


def text_of(message: Message) -> str:
    """``message`` as text, a field a line, indented by two spaces. A sequence is a repeated field."""
    return "".join(f"{line}\n" for line in _lines(message))


def _lines(message: Message) -> Iterator[str]:
    for name, value in message.items():
        if isinstance(value, Mapping):
            yield from _block(name, value)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            scalars = [_scalar(entry) for entry in value if not isinstance(entry, Mapping)]
            if scalars:
                yield f"{name}: [{', '.join(scalars)}]"
            for entry in value:
                if isinstance(entry, Mapping):
                    yield from _block(name, entry)
        else:
            yield f"{name}: {_scalar(value)}"


def _block(name: str, message: Message) -> Iterator[str]:
    yield f"{name} {{"
    yield from (f"  {line}" for line in _lines(message))
    yield "}"


def _scalar(value: Scalar) -> str:
    if isinstance(value, Word):
        return str(value)
    if isinstance(value, str):
        return f'"{_escaped(value)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def _escaped(text: str) -> str:
    """Printable ASCII as it is but for quotes and backslashes, any other byte of its UTF-8 as three octal digits."""
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b"\"'\\" else f"\\{byte:03o}" for byte in text.encode("utf-8")
    )
