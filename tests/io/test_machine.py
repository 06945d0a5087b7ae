"""What a machine does to a job is told in one line; a fault of ours is not."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from spinevl.io.folders import whole_folder
from spinevl.io.machine import machine_problem, reason

OUT = Path("/o")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ("/o", "No space left on device")),
        (OSError(errno.EROFS, "x", "/f/checkpoint"), ("/f/checkpoint", "Read-only file system")),
        (PermissionError(errno.EACCES, "x", "/f"), ("/f", "Permission denied")),
        (OSError("Caught OSError in DataLoader worker process 0.\n[Errno 24] Too many"), ("-n",)),
        (MemoryError(), ("trainer.batch_patients",)),
        (np._core._exceptions._ArrayMemoryError((10**12,), np.dtype("f8")), ("7.28 TiB",)),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), ("2 GiB",)),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), ("num_workers", "7")),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), ("signal",)),
    ],
)
def test_it_is_one_line(error: Exception, told: tuple[str, ...]) -> None:
    line = machine_problem(error, OUT)
    assert line
    assert "\n" not in line
    assert all(text in line for text in told), line
    assert reason(error, OUT) == line


def test_it_is_found_below_what_it_led_to() -> None:
    error = RuntimeError("the checkpoint was not saved")
    error.__cause__ = OSError(errno.EDQUOT, "x", "/f")
    assert "/f" in str(machine_problem(error))


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        ValueError("shapes (3,) and (4,)"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        FileNotFoundError(errno.ENOENT, "x", "/f"),
    ],
)
def test_a_fault_of_ours_keeps_its_stack(error: Exception) -> None:
    assert machine_problem(error, OUT) is None


def test_a_full_disk_names_the_folder_and_keeps_the_former(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "checkpoint") as new:
        (new / "content").write_text("former")

    def write() -> None:
        with whole_folder(tmp_path / "checkpoint"):
            raise SafetensorError("I/O error: No space left on device (os error 28)")

    with pytest.raises(OSError, match="No space left") as found:
        write()
    assert f"{tmp_path}/checkpoint: No space left on device" in str(machine_problem(found.value))
    assert [one.name for one in tmp_path.iterdir()] == ["checkpoint"]
    assert (tmp_path / "checkpoint/content").read_text() == "former"
