"""vLLM as a job has it: a process in an environment of its own, which ends with the job."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from spinevl.distributed.launch import environment
from spinevl.io.files import expanded, writing
from spinevl.io.machine import MEMORY_FIX
from spinevl.io.temporary import remove
from spinevl.io.tensors import write_tensors
from spinevl.schema.errors import UserError, refused

WORKER = Path(__file__).with_name("vllm_worker.py")
"""What runs there; it imports nothing of ours."""

KEY = "predict.vllm_python"
_SILENCE_S = 3600  # the longest that it may say nothing: reading large weights takes long
_VERSION_S = 300
_LONGEST_LINE = 2**22
_LOG_TAIL = 2**16
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, which ends as a whole
}


def interpreter(told: str | None) -> str:
    """The interpreter of vLLM's environment: the one that the command line names, or this one.

    Raises:
        UserError: there is no such program.
    """
    if told is None:
        return sys.executable
    path = expanded(told, KEY).absolute()  # not resolved: a link is what makes an environment
    if not path.is_file() or not os.access(path, os.X_OK):
        found = "a file that cannot be run" if path.is_file() else "no such file"
        raise refused(f"{KEY}={told}", "the Python of an environment with vLLM", found, _INSTALL)
    return str(path)


_INSTALL = (
    "install vLLM into an environment of its own and name its python, as "
    f"{KEY}=/opt/vllm/bin/python, or write predict.engine=native"
)


def vllm_version(told: str | None) -> str:
    """The version of vLLM that an environment has.

    Args:
        told: see interpreter.

    Raises:
        UserError: no such interpreter, or it has no vLLM.
    """
    python = interpreter(told)
    where = f"{KEY}={told}" if told else "predict.engine=vllm"
    try:
        done = subprocess.run(
            [python, str(WORKER), "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_VERSION_S,
        )
        found = json.loads(done.stdout)["version"]
    except (OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired) as error:
        found = f"a program that is none ({type(error).__name__})"
        raise refused(where, "the Python of an environment with vLLM", found, _INSTALL) from error
    if not isinstance(found, str):
        raise refused(where, "vLLM in its environment", f"none in that of {python}", _INSTALL)
    return found


class VLLMProcess:
    """vLLM with one LLM, once it is started; as a context, it is ended with the block.

    Args:
        python: see interpreter.
        model: the folder of the LLM, as ``write_decoder`` leaves it.
        prompts: a folder for the embeddings of prompts, made and removed here.
        log: takes what it prints.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
    """

    def __init__(
        self, python: str | None, *, model: Path, prompts: Path, log: Path, device: str
    ) -> None:
        self.python = python
        self.model = model
        self.prompts = prompts
        self.log = log
        self.device = device
        self.max_length = 0
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()
        self._asked = 0

    def __enter__(self) -> VLLMProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self, *, dtype: str, max_length: int, end: int, keys_bytes: int) -> None:
        """Start it; one that takes prompts of ``max_length`` already goes on.

        Args:
            dtype: ``float32`` or ``bfloat16``, in which it computes.
            max_length: of a prompt with its answer, in tokens.
            end: the token that ends an answer.
            keys_bytes: room for keys and values, on a CPU; a GPU gives what is free.

        Raises:
            UserError: it cannot start.
        """
        if self._process is not None and max_length <= self.max_length:
            return
        self.close()
        self.max_length = max_length
        self.prompts.mkdir(parents=True, exist_ok=True)
        self._lines = queue.Queue()
        with self.log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [interpreter(self.python), str(WORKER), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                env=self._environment(keys_bytes),
                start_new_session=True,  # Ctrl-C comes to this process alone, which ends it
            )
        threading.Thread(
            target=_listen, args=(self._process, self._lines), name="vLLM", daemon=True
        ).start()
        self._tell(model=str(self.model), dtype=dtype, max_length=max_length, end=end)
        if self._told().get("ready") is not True:
            raise self._failed("said something else than that it is ready")

    def ask(self, embeddings: torch.Tensor, max_new_tokens: int) -> int:
        """Ask for the greedy answer to a prompt, embeddings [L, dim]. Returns its number."""
        number, self._asked = self._asked, self._asked + 1
        file = self._file(number)
        with writing(file):
            write_tensors(file, {"embeddings": embeddings.cpu().contiguous()})
        self._tell(id=number, embeddings=str(file), max_new_tokens=max_new_tokens)
        return number

    def answer(self) -> tuple[int, list[int] | None]:
        """The next answer that is done: the prompt's number, and its tokens without the end token.

        They are None where logits were not finite.

        Raises:
            UserError: the process has stopped, says that something is wrong, or says nothing.
        """
        while "step" in (told := self._told()):
            continue
        number, tokens = told.get("id"), told.get("tokens", ())
        whole = isinstance(tokens, list) and all(type(one) is int for one in tokens)
        if type(number) is not int or not (tokens is None or whole):
            raise self._failed("said something that is no answer")
        remove(self._file(number))
        return number, tokens

    def close(self) -> None:
        """End the process and all that it has started."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError, ValueError):
                    if stream:
                        stream.close()
        remove(self.prompts)

    def _file(self, number: int) -> Path:
        return self.prompts / f"{number}.safetensors"

    def _environment(self, keys_bytes: int) -> dict[str, str]:
        kind, _, number = self.device.partition(":")
        own = {**environment(os.environ, 1), **_OFFLINE}
        if kind == "cpu":
            own.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, -(-keys_bytes // 2**30))))
        elif number:
            shown = os.environ.get("CUDA_VISIBLE_DEVICES")
            own["CUDA_VISIBLE_DEVICES"] = shown.split(",")[int(number)] if shown else number
        return own

    def _tell(self, **told: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has stopped, as the next answer tells
            self._process.stdin.write(json.dumps(told) + "\n")
            self._process.stdin.flush()

    def _told(self) -> Mapping[str, Any]:
        """What it says next."""
        try:
            line = self._lines.get(timeout=_SILENCE_S)
        except queue.Empty:
            raise self._failed(f"has said nothing for {_SILENCE_S} s") from None
        try:
            told = json.loads(line) if line else None
        except ValueError:
            told = {}
        if told is None:
            raise self._stopped()
        if not isinstance(told, dict):
            told = {}
        if "error" in told:
            raise self._failed(f"failed ({told['error']})")
        return told

    def _stopped(self) -> UserError:
        assert self._process is not None
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return self._failed("was killed, for want of memory as a rule", MEMORY_FIX)
        how = f"through signal {-code}" if code < 0 else f"with exit code {code}"
        return self._failed(f"ended {how} ({_last_error(self.log)})")

    def _failed(self, how: str, fix: str = "predict.engine=native answers without it") -> UserError:
        return UserError(f"predict.engine=vllm: vLLM {how}; its log: {self.log}; {fix}")


def _listen(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    """Pass on its lines; an empty one says that there are no more."""
    assert process.stdout is not None
    with contextlib.suppress(OSError, ValueError):
        while line := process.stdout.readline(_LONGEST_LINE):
            lines.put(line)
    lines.put("")


def _last_error(log: Path) -> str:
    """The last line of a log that speaks of an error, or else its last one."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL))
        text = file.read().decode("utf-8", "replace")
    said = [line.strip() for line in text.splitlines() if line.strip()]
    errors: Sequence[str] = [line for line in said if "error" in line.casefold()]
    return (errors or said or ["it said nothing"])[-1][:300]
