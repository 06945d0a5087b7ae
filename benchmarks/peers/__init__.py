"""Ours against the engines that people would use instead; see ``python -m benchmarks.peers``."""
