"""Face de-identification: detect, track, guard, cover. Needs numpy, OpenCV and one engine, as all of ``runtime``."""

METHODS = ("average", "generator", "solid", "mosaic", "blur")
"""What can be put in place of a face; here, because ``--help`` has to know it without OpenCV."""
