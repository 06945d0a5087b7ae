"""How this process's memory is taken from the system and given back."""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD = -3  # of malloc.h
_LARGE = 2**20
_LARGE_MODEL = 2**28  # bytes of weights from which memory counts more than time


def give_back_large_blocks(*, weights: int) -> None:
    """Let glibc take blocks of a megabyte and more from the system and give back each when freed.

    By default it keeps blocks of up to 32 MB, and a training whose tensors have many sizes cannot
    reuse them: measured, a step took 40 % more memory than its tensors, and 3 % with this. It costs
    small models time, so it is for large ones.

    Args:
        weights: bytes of the weights of the model that is trained.
    """
    if sys.platform != "linux" or weights <= _LARGE_MODEL:
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
