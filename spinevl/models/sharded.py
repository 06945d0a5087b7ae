"""Building models where DeepSpeed's ZeRO-3 divides every weight among the ranks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def built_whole() -> Iterator[None]:
    """Within it modules are built whole in this process, also under ``deepspeed.zero.Init``."""
    partition = sys.modules.get("deepspeed.runtime.zero.partition_parameters")
    if partition is None or partition.top_level_context is None:
        yield
        return
    partition.shutdown_init_context()
    try:
        yield
    finally:
        partition.restore_init_context()
