"""The memory of a process of ours; each case is a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from spinevl.io.memory import _OF_THE_USER

ASKED = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from spinevl.io.memory import give_back_large_blocks, keep_memory

def mapped():
    "In how many of ten tensors every page was filled by the system."
    import torch
    for _ in range(2):
        torch.zeros(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(2**24).add_(1)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * 4096 // 2**26

def mapped_in_a_thread():
    with ThreadPoolExecutor() as pool:
        return pool.submit(mapped).result()

def in_large_pages():
    "How many bytes of the heap the system is asked to fill in large pages."
    size = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line[:1].isdigit() or line[:1] in "abcdef":
            first, _, last = line.split()[0].partition("-")
            heap = line.endswith("[heap]")
        elif heap and line.startswith("VmFlags:") and "hg" in line.split():
            size += int(last, 16) - int(first, 16)
    return size

if sys.argv[1] == "back":
    print(mapped())
before = Path("/proc/self/statm").read_text().split()[1]
print(keep_memory(), in_large_pages() >= 2**29)
after = Path("/proc/self/statm").read_text().split()[1]
assert int(after) - int(before) < 2**14  # pages: nothing is taken
if sys.argv[1] == "back":
    give_back_large_blocks()
if sys.argv[1] != "ask":
    print(mapped(), *[mapped_in_a_thread()][: sys.argv[1] == "keep"])
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's mallopt")


def told(how: str, **variables: str) -> list[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(_OF_THE_USER)}
    done = subprocess.run(
        [sys.executable, "-c", ASKED, how],
        env={**own, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_what_is_freed_is_not_mapped_again() -> None:
    assert told("keep") == ["True", "True", "0", "0"]
    # otherwise once a tensor, and so it is where large blocks are given back
    assert told("back", THP_MEM_ALLOC_ENABLE="0") == ["10", "True", "False", "10"]


def test_what_the_user_has_set_stays() -> None:
    assert told("ask", MALLOC_ARENA_MAX="4") == ["False", "False"]
    assert told("ask", GLIBC_TUNABLES="glibc.malloc.arena_max=4") == ["False", "False"]
    assert told("ask", THP_MEM_ALLOC_ENABLE="0") == ["True", "False"]


@pytest.mark.parametrize("kind", ["AS", "DATA"])
def test_addresses_that_are_limited_are_left_to_others(kind: str) -> None:
    code = f"""
import mmap, os, resource
from pathlib import Path
total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_{kind}, (total // 2 + 2**28,) * 2)
from spinevl.io.memory import keep_memory
before = int(Path("/proc/self/statm").read_text().split()[0])
assert keep_memory()
assert int(Path("/proc/self/statm").read_text().split()[0]) - before < 2**14
mmap.mmap(-1, 2**30)
"""
    own = {name: value for name, value in os.environ.items() if not name.startswith(_OF_THE_USER)}
    subprocess.run([sys.executable, "-c", code], env=own, check=True)


def test_what_is_freed_can_be_given_back() -> None:
    code = """
from pathlib import Path
from spinevl.io.memory import give_back_memory, keep_memory

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20

keep_memory()
large, small = bytearray(b"1" * 2**27), bytearray(2**10)
del large
kept = held()
give_back_memory()
print(kept - held())
"""
    own = {name: value for name, value in os.environ.items() if not name.startswith(_OF_THE_USER)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=own, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 100


def test_the_next_job_of_a_sweep_finds_memory_free() -> None:
    code = """
from pathlib import Path
from spinevl.io.memory import begin_again, keep_memory

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20

begin_again()
keep_memory()
large, small = bytearray(b"1" * 2**27), bytearray(2**10)
del large
kept = held()
begin_again()
print(kept - held(), Path("/proc/self/smaps").read_text().count(" hg "))
"""
    own = {name: value for name, value in os.environ.items() if not name.startswith(_OF_THE_USER)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=own, capture_output=True, text=True, check=True
    )
    freed, large = done.stdout.split()
    assert int(freed) > 100
    assert int(large) > 0
