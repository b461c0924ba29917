"""Triton's own message definitions, from the ``tritonclient`` package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest


def model_config(text: str) -> Any:
    """``config.pbtxt`` as a ``ModelConfig`` message; the test is skipped where tritonclient is not installed.

    The definitions are loaded from their file: ``tritonclient.grpc`` itself would import grpc as well, and its extra
    wants an older protobuf than onnx brings.
    """
    found = importlib.util.find_spec("tritonclient")
    if found is None or found.origin is None:
        pytest.skip("tritonclient is not installed: pip install tritonclient")
    from google.protobuf import text_format

    spec = importlib.util.spec_from_file_location(
        "triton_model_config", Path(found.origin).parent / "grpc" / "model_config_pb2.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return text_format.Parse(text, module.ModelConfig())
