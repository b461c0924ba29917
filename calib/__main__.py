"""``python -m calib``"""

import sys

from calib.cli import run

sys.exit(run())
