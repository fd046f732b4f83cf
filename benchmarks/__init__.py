"""Side-by-side timings; each module runs as ``python -m benchmarks.NAME``."""
