"""Benchmarks of the product against the limits of its parts, as ratios."""
