"""vLLM as a process: what it is told and says, and every way in which it can fail."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from vllm_environment import fake_environment

from spinevl.inference import vllm_process
from spinevl.inference.vllm_process import WORKER, VLLMProcess, vllm_version
from spinevl.schema.errors import UserError

START = {"dtype": "float32", "max_length": 64, "end": 2, "keys_bytes": 0}


@pytest.fixture
def process(tmp_path: Path) -> VLLMProcess:
    return VLLMProcess(
        fake_environment(tmp_path),
        model=tmp_path / "llm",
        prompts=tmp_path / "prompts",
        log=tmp_path / "vllm.log",
        device="cpu",
    )


def test_the_version_is_that_of_the_environment(tmp_path: Path) -> None:
    assert vllm_version(fake_environment(tmp_path)) == "9.9"


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_an_environment_without_vllm_is_refused() -> None:
    with pytest.raises(UserError, match=r"predict\.engine=vllm: .*found none .*engine=native"):
        vllm_version(None)
    with pytest.raises(UserError, match=r"predict\.vllm_python=.*found none"):
        vllm_version(sys.executable)


@pytest.mark.parametrize("name", ["none", "no_program", "other"])
def test_what_is_no_interpreter_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "no_program").write_text("")
    (tmp_path / "other").write_text("#!/bin/sh\necho hello\n")
    (tmp_path / "other").chmod(0o755)
    with pytest.raises(UserError, match=r"predict\.vllm_python=\S*" + name) as caught:
        vllm_version(str(tmp_path / name))
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("refuses at start", r"ValueError: Model architectures \['Odd'\] are not supported"),
        ("ends at start", r"exit code 3 \(RuntimeError: no room\)"),
        ("is killed at start", "killed, for want of memory"),
        ("sleeps at start", "said nothing"),
    ],
)
def test_an_engine_that_cannot_start_is_told_in_one_line(
    process: VLLMProcess, monkeypatch: pytest.MonkeyPatch, wrong: str, message: str
) -> None:
    monkeypatch.setenv("FAKE_VLLM", wrong)
    if wrong.startswith("sleeps"):
        monkeypatch.setattr(vllm_process, "_SILENCE_S", 0.2)
    with pytest.raises(UserError, match=message) as caught, process:
        process.start(**START)
    assert len(caught.value.lines) == 1
    assert "predict.engine=vllm" in str(caught.value)
    assert str(process.log) in str(caught.value)
    assert not process.prompts.exists()
    if wrong.startswith("ends"):  # what libraries print is no answer
        assert "vLLM talks on standard output" in process.log.read_text()


def other(tmp_path: Path, *said: str) -> VLLMProcess:
    """A program that says some lines whatever it is told, the first that it is ready."""
    (tmp_path / "said").write_text("\n".join(('{"ready": true}', *said, "")))
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\ncat '{tmp_path}/said' -\n")
    program.chmod(0o755)
    return VLLMProcess(
        str(program), model=tmp_path, prompts=tmp_path / "p", log=tmp_path / "log", device="cpu"
    )


@pytest.mark.parametrize(
    "line",
    ["hello", "[]", "{}", '{"id": "0", "tokens": []}', '{"id": 0, "tokens": [1.5]}', '{"id": 0}'],
)
def test_lines_that_are_no_answer_are_refused(tmp_path: Path, line: str) -> None:
    with other(tmp_path, line) as process:
        process.start(**START)
        process.ask(torch.zeros(1, 2), 3)
        with pytest.raises(UserError, match="no answer"):
            process.answer()


def test_answers_come_in_any_order_and_their_prompts_go(tmp_path: Path) -> None:
    said = ('{"step": true}', '{"id": 1, "tokens": [7, 8]}', '{"id": 0, "tokens": null}')
    with other(tmp_path, *said) as process:
        process.start(**START)
        process.start(**{**START, "max_length": 32})  # it takes these already
        assert [process.ask(torch.zeros(2, 3), 5) for _ in range(2)] == [0, 1]
        assert len(list(process.prompts.iterdir())) == 2
        assert process.answer() == (1, [7, 8])
        assert process.answer() == (0, None)
        assert list(process.prompts.iterdir()) == []
    assert not process.prompts.exists()


def test_a_device_is_the_only_one_that_is_shown(
    process: VLLMProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    process.device = "cuda:1"
    assert process._environment(0)["CUDA_VISIBLE_DEVICES"] == "1"
    assert "LOCAL_RANK" not in process._environment(0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    assert process._environment(0)["CUDA_VISIBLE_DEVICES"] == "GPU-5"
    process.device = "cuda"
    assert process._environment(0)["CUDA_VISIBLE_DEVICES"] == "3,GPU-5"


def test_the_room_for_keys_is_told_to_a_cpu(
    process: VLLMProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    rooms = [process._environment(n)["VLLM_CPU_KVCACHE_SPACE"] for n in (0, 2**30, 2**30 + 1)]
    assert rooms == ["1", "1", "2"]
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    assert process._environment(0)["VLLM_CPU_KVCACHE_SPACE"] == "7"


def test_it_ends_with_its_parent() -> None:
    """One that is told another parent than it has finds that it is gone."""
    words = [sys.executable, str(WORKER), str(os.getppid())]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:  # its input stays open
        assert process.wait(timeout=60) == 1


def test_it_imports_nothing_of_ours() -> None:
    assert "import spinevl" not in WORKER.read_text()
    assert "from spinevl" not in WORKER.read_text()
