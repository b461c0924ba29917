"""``python -m runtime``"""

import sys

from runtime.cli import run

sys.exit(run())
