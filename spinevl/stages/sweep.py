"""The leaderboard of a sweep."""

from __future__ import annotations

from hydra.experimental.callback import Callback


class Leaderboard(Callback):
    """To be filled in."""
