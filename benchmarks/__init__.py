"""Measurements of genedge against its targets: ``python -m benchmarks`` runs them all."""
