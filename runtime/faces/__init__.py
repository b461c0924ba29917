"""Face de-identification: detect, track, guard, cover. Needs numpy, OpenCV and one engine, as all of ``runtime``."""
