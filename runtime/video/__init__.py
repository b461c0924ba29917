"""Video in and out: one string opens any source or sink.

``open_source("clip.mp4")`` gives frames as ``uint8 (H, W, 3) BGR`` with exact timestamps, and
``open_sink("out.mp4", source=...)`` writes them. The submodules import PyAV or OpenCV, so nothing
is imported here.
"""
