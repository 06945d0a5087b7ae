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
from pathlib import Path

# of the parameters of mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_NEVER = -1
_OFTEN = 2**16  # glibc's default
_LARGE = 2**20

_MADV_HUGEPAGE = 14  # of madvise(2)
_MOST_LARGE_PAGES = 2**36  # bytes

_OF_THE_USER = ("GLIBC_TUNABLES", "MALLOC_")

_kept: list[bool] = []  # not empty once this process keeps its memory


def keep_memory() -> bool:
    """Keep what this process frees for what it needs next; call it before torch makes a tensor.

    Large pages are asked for where the heap will grow: half of the machine's memory, at most 64
    GiB. None of it is used by that, but it counts as addresses of this process, so nothing is asked
    where those are limited. torch's own switch (``THP_MEM_ALLOC_ENABLE=1``) is not set, since it
    begins each tensor at a page of its own: the gaps took 20 % of a training's memory.

    Whoever has set glibc's own variables (``GLIBC_TUNABLES``, ``MALLOC_...``) is left alone, and so
    are other systems and allocators.

    Returns:
        Whether anything was changed.
    """
    if any(name.startswith(_OF_THE_USER) for name in os.environ):
        return False
    libc = _glibc()
    if libc is None or not (libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_ARENA_MAX, 1)):
        return False
    libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    _ask_for_large_pages(libc)
    _kept.append(True)
    return True


def _glibc() -> ctypes.CDLL | None:
    """glibc, if this process allocates with it."""
    if sys.platform != "linux":
        return None
    try:
        libc, used = ctypes.CDLL("libc.so.6"), ctypes.CDLL(None)
        same = _address(libc.malloc) == _address(used.malloc)
        return libc if same and _address(libc.mallopt) and _address(libc.malloc_trim) else None
    except (OSError, AttributeError):
        return None  # musl


def _address(function: object) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]


def _ask_for_large_pages(libc: ctypes.CDLL) -> None:
    """Let the heap grow by much that nothing uses yet, and the system fill it in large pages."""
    if os.environ.get("THP_MEM_ALLOC_ENABLE") == "0" or _addresses_are_limited():
        return
    page = os.sysconf("SC_PAGE_SIZE")
    size = min(os.sysconf("SC_PHYS_PAGES") * page // 2, _MOST_LARGE_PAGES)
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = libc.malloc(size)
    if block is not None:
        start = -(-block // page) * page
        libc.madvise(start, (block + size - start) // page * page, _MADV_HUGEPAGE)
        libc.free(block)


def _addresses_are_limited() -> bool:
    """Whether what is asked for counts against a limit, though it is not used."""
    import resource  # of Unix alone

    limits = (resource.getrlimit(one)[0] for one in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    if any(one != resource.RLIM_INFINITY for one in limits):
        return True
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    except OSError:
        return True


def give_back_large_blocks() -> None:
    """Take blocks of a megabyte and more from the system, and give back each when it is freed.

    What is kept cannot always be used again where tensors have many sizes: measured, a training
    step took up to 17 % more memory than with this, and less time.
    """
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_MMAP_MAX, _OFTEN)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGE)


def give_back_memory() -> None:
    """Give what this process has freed back to the system, for another one to take."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def begin_again() -> None:
    """Where memory is kept, give back what a job has left, and keep it as at the start."""
    if _kept:
        give_back_memory()
        keep_memory()
