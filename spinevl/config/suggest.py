"""The nearest valid word beside one that is not valid."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def suggest(word: str, valid: Sequence[str]) -> str:
    """``; did you mean seed? valid: ...``"""
    close = difflib.get_close_matches(word, valid, 1)
    return (f"; did you mean {close[0]}?" if close else ";") + f" valid: {', '.join(valid)}"
