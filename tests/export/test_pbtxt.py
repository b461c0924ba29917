"""Protocol buffers as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from triton_messages import model_config

from export.pbtxt import Word, text_of

#: any text that UTF-8 can hold
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def test_fields_blocks_and_repeated_fields() -> None:
    message = {"name": "a", "count": 3, "share": 0.5, "on": True, "kind": Word("KIND_GPU"), "dims": [-1, 3]}
    assert text_of({**message, "block": {"of": "b"}, "many": [{"x": 1}, {"x": 2}], "none": [], "empty": {}}) == (
        'name: "a"\ncount: 3\nshare: 0.5\non: true\nkind: KIND_GPU\ndims: [-1, 3]\n'
        'block {\n  of: "b"\n}\nmany {\n  x: 1\n}\nmany {\n  x: 2\n}\nempty {\n}\n'
    )


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('x" backend: "python', r'"x\042 backend: \042python"'),
        ("two\nlines", r'"two\012lines"'),
        ("back\\slash", r'"back\134slash"'),
        ("\x1b[31m\x00", r'"\033[31m\000"'),
        ("é", r'"\303\251"'),
    ],
)
def test_hostile_texts_stay_within_their_quotes(text: str, written: str) -> None:
    assert text_of({"name": text}) == f"name: {written}\n"


@given(TEXTS, TEXTS)
def test_protobuf_reads_back_any_text(name: str, key: str) -> None:
    written = text_of({"name": name, "parameters": [{"key": key, "value": {"string_value": name}}]})
    assert written.isascii()
    read = model_config(written)
    assert read.name == name
    assert read.parameters[key].string_value == name
