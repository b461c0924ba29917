"""The parts of ``benchmarks.privacy``: what de-identification does to faces, measured from the outside."""
