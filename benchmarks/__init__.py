"""What the fast paths are worth: ``python -m benchmarks``."""
