"""What can be changed on the page while a run goes on: bundles and engines of its stages, and their codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runtime.control import SECRET, Controls, Dial
from runtime.errors import UsageError
from runtime.live.switch import Switcher, engine_name


class Panel:
    """Ties the page's messages to :class:`runtime.control.Controls` and :class:`runtime.live.switch.Switcher`."""

    def __init__(self, controls: Controls, switcher: Switcher) -> None:
        self._controls, self._switcher = controls, switcher
        self._actions: dict[str, Callable[[dict[str, Any]], str]] = {"code": self._code, "switch": self._switch}

    def state(self) -> dict[str, Any]:
        """What is set now and what could be, ready for ``json.dumps``. Holds no passcode."""
        return {
            "stages": [
                {"bundle": slot.bundle.manifest.name, "engine": engine_name(slot.choice)}
                for slot in self._switcher.slots
            ],
            "offers": self._switcher.offers,
            "busy": self._switcher.busy,
            "codes": [
                _described(dial, self._controls.said(dial.stage).get(dial.port.name, ""))
                for dial in self._controls.dials
            ],
        }

    def milliseconds(self) -> list[float | None]:
        """Of each stage, the mean time from submission to result since the last call."""
        return [slot.session.milliseconds() for slot in self._switcher.slots]

    def handle(self, kind: str, content: dict[str, Any]) -> str:
        """Do what somebody asks for on the page; what was done, in a sentence, or nothing where that is said later.

        Raises :class:`runtime.errors.GenedgeError` where it cannot be done; then nothing has changed.
        """
        if kind not in self._actions:
            raise UsageError(f"the page asks for {kind[:80]!r}, which is nothing that can be done")
        return self._actions[kind](content)

    def _code(self, content: dict[str, Any]) -> str:
        name, value = _text(content, "name"), _text(content, "value")
        dial = self._controls.dial(name)
        if dial.port.is_map and value.strip().lower().endswith(".png") and value.strip() not in dial.code.labels:
            raise UsageError("a page cannot name pictures on this machine: use --code or --control")
        self._controls.apply(name, value)
        return self._controls.told(self._controls.dial(name))

    def _switch(self, content: dict[str, Any]) -> str:
        stage = content.get("stage")
        if type(stage) is not int:
            raise UsageError("the page names no stage")
        self._switcher.ask(stage, _text(content, "bundle"), _text(content, "engine"))
        return ""


def _described(dial: Dial, value: str) -> dict[str, Any]:
    code = dial.code
    return {
        "name": dial.spellings[2],
        "title": dial.name,
        "kind": code.kind,
        "size": code.size,
        "low": code.low,
        "high": code.high,
        "labels": list(code.labels),
        "map": dial.port.is_map,
        "secret": value == SECRET or dial.port.name == "passcode",
        "value": value,
    }


def _text(content: dict[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str):
        raise UsageError(f"the page sends no {key}")
    return value
