"""What the training recipes share."""

from __future__ import annotations

import argparse
from dataclasses import asdict, fields
from typing import Any, TypeVar

S = TypeVar("S")


def add_settings(parser: argparse.ArgumentParser, settings: Any) -> None:
    """Add an option for every field of the dataclass ``settings``, with its value as the default."""
    for name, value in asdict(settings).items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=value)
        else:
            parser.add_argument(flag, type=type(value), default=value)


def settings_of(options: argparse.Namespace, kind: type[S]) -> S:
    """The settings, a dataclass of ``kind``, that the options of :func:`add_settings` give."""
    return kind(**{field.name: getattr(options, field.name) for field in fields(kind)})  # type: ignore[arg-type]
