"""Rendered cervical spines with known truth. A phantom is no clinical evidence."""

GENERATOR_VERSION = 4
