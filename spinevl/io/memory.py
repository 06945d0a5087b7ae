"""How this process gets its memory from the system.

A tensor of some megabytes is mapped when it is made and unmapped when it is dropped, with glibc's
defaults, and the system fills each of its small pages with zeros when it is first touched. In an
element-wise operation on a CPU that takes longer than the arithmetic. Kept memory, in large pages,
is mapped and filled once.
"""

from __future__ import annotations

import ctypes
import os
import sys

LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""Read by torch when it makes its first tensor: 1 asks for large pages, 0 does not."""

# of the parameters of mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1
_OFTEN = 2**16  # glibc's default
_LARGE = 2**20

_OF_THE_USER = ("GLIBC_TUNABLES", "MALLOC_")


def keep_memory() -> bool:
    """Keep what this process frees for what it needs next; call it before torch makes a tensor.

    Whoever has set glibc's own variables (``GLIBC_TUNABLES``, ``MALLOC_...``) is left alone, and so
    are other systems and allocators.

    Returns:
        Whether anything was changed.
    """
    if sys.platform != "linux" or any(name.startswith(_OF_THE_USER) for name in os.environ):
        return False
    os.environ.setdefault(LARGE_PAGES, "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))


def give_back_large_blocks() -> None:
    """Take blocks of a megabyte and more from the system, and give back each when it is freed.

    What is kept cannot always be used again where tensors have many sizes: measured, a training
    step took up to 45 % more memory than with this, and 25 to 50 % less time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and sys.platform == "linux":
        mallopt(_M_MMAP_MAX, _OFTEN)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _LARGE)


def give_back_memory() -> None:
    """Give what this process has freed back to the system, for another one to take."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone keeps it
    if trim is not None:
        trim(0)
