"""The memory of the machine and of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from spinevl.training.memory import room
from spinevl.training.memory.room import room_on


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8,000 kB of free memory and 1,000 kB of swap, without control groups."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "proc/meminfo").write_text(
        "MemTotal: 16000 kB\nMemAvailable:    8000 kB\nSwapFree: 1000 kB\n"
    )
    monkeypatch.setattr(room, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(room, "_CGROUPS", tmp_path / "cgroup")
    return tmp_path


def group(folder: Path, *, limit: str, used: int, cache: int, names: tuple[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\n")


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
V2 = ("memory.max", "memory.current")


def test_free_memory_and_swap_are_shared_by_processes(machine: Path) -> None:
    assert room_on("cpu").size == 9_000 * 1024  # type: ignore[union-attr]
    two = room_on("cpu", processes=2)
    assert two is not None
    assert two.size == 4_500 * 1024
    assert "2 processes" in two.what


def test_the_limit_of_a_group_or_of_one_above_it_counts(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("0::/slurm/job7\n")
    group(machine / "cgroup/slurm", limit="5000000", used=3_000_000, cache=500_000, names=V2)
    group(machine / "cgroup/slurm/job7", limit="max", used=9, cache=0, names=V2)
    assert room_on("cpu").size == 2_500_000  # type: ignore[union-attr]


def test_groups_of_version_1(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("4:cpu,cpuacct:/\n3:memory:/docker/x\n")
    folder = machine / "cgroup/memory/docker/x"
    group(folder, limit="4000000", used=1_000_000, cache=0, names=V1)
    assert room_on("cpu").size == 3_000_000  # type: ignore[union-attr]


def test_what_is_not_told_is_unknown(machine: Path) -> None:
    (machine / "proc/meminfo").write_text("MemTotal: 16000 kB\n")
    assert room_on("cpu") is None
    assert room_on("mps") is None
