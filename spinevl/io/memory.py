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

# of the parameters of mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4
_NEVER = -1
_OFTEN = 2**16  # glibc's default
_LARGE = 2**20

_MADV_HUGEPAGE = 14  # of madvise(2)
_MOST_LARGE_PAGES = 2**36  # bytes

_OF_THE_USER = ("GLIBC_TUNABLES", "MALLOC_")


def keep_memory() -> bool:
    """Keep what this process frees for what it needs next; call it before torch makes a tensor.

    Large pages are asked for where the heap will grow, half of the machine's memory and at most 64
    GiB; nothing is taken by that. torch's own switch (``THP_MEM_ALLOC_ENABLE``) is not used, since
    it begins each tensor at a page of its own: the gaps took 20 % of a training's memory.

    Whoever has set glibc's own variables (``GLIBC_TUNABLES``, ``MALLOC_...``) is left alone, and so
    are other systems and allocators.

    Returns:
        Whether anything was changed.
    """
    if sys.platform != "linux" or any(name.startswith(_OF_THE_USER) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None or not (mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER)):
        return False
    if os.environ.get("THP_MEM_ALLOC_ENABLE") != "0":
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        _ask_for_large_pages(min(total // 2, _MOST_LARGE_PAGES))
    return True


def _ask_for_large_pages(size: int) -> None:
    """Let the heap grow by some bytes that nothing uses yet, and the system fill them in large."""
    libc = ctypes.CDLL(None)
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = libc.malloc(size)
    if block is None:
        return  # a limit on the process's addresses
    page = os.sysconf("SC_PAGE_SIZE")
    start = -(-block // page) * page
    libc.madvise(start, (block + size - start) // page * page, _MADV_HUGEPAGE)
    libc.free(block)


def give_back_large_blocks() -> None:
    """Take blocks of a megabyte and more from the system, and give back each when it is freed.

    What is kept cannot always be used again where tensors have many sizes: measured, a training
    step took up to 17 % more memory than with this, and less time.
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
