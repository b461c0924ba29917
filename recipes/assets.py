"""Where the test material lies. Imports nothing heavy, so that memory and start-up can be measured beside it."""

from __future__ import annotations

import os
from pathlib import Path


def assets_folder() -> Path:
    """Folder of the test material: ``$GENEDGE_ASSETS``, else ``../shared/assets`` beside the checkout."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "assets"
    return Path(os.environ.get("GENEDGE_ASSETS") or default)
