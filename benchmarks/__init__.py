"""Ratios against peers and limits: each module runs with `python -m benchmarks.<name>`."""
