"""Rendered cervical spines with known truth. A phantom is no clinical evidence."""

GENERATOR_VERSION = 4

DRAWN = "phantom-"
"""How the ids of patients begin that are drawn, and not rendered for given labels."""
