"""Work that two processes do together, over gloo, within a limit of time."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import distributed, multiprocessing


def on_two_ranks(work: Callable[..., None], folder: Path, *args: Any, limit_s: float = 240) -> None:
    """Call ``work(rank, *args)`` in two spawned processes that form a group.

    Raises ProcessRaisedException with what a rank raised, and AssertionError where a rank waits for
    longer than ``limit_s``.
    """
    told = (work, str(folder / "store"), limit_s, *args)
    ranks = multiprocessing.spawn(_rank, args=told, nprocs=2, join=False)
    assert ranks is not None
    ends = time.monotonic() + limit_s
    try:
        while not ranks.join(timeout=1):
            assert time.monotonic() < ends, "a rank waits for another"
    finally:
        for process in ranks.processes:
            process.kill()
            process.join()


def _rank(rank: int, work: Callable[..., None], store: str, limit_s: float, *args: Any) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_SIZE": "2", "DS_ACCELERATOR": "cpu"}
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=limit_s),
    )
    work(rank, *args)
    distributed.barrier()  # no rank closes its connections while the other still uses them
    sys.stdout.flush()
    sys.stderr.flush()
    # As a job's workers do: threads of gloo may still run while the interpreter takes its libraries
    # down, which aborts the process after all its work.
    os._exit(0)
