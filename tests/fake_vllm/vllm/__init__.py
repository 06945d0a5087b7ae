"""As much of vLLM as we call, on transformers; ``FAKE_VLLM`` names what goes wrong."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from functools import cached_property
from types import SimpleNamespace
from typing import Any

WRONG = "FAKE_VLLM"


def EngineArgs(**given: Any) -> SimpleNamespace:
    return SimpleNamespace(**given)


def SamplingParams(**given: Any) -> SimpleNamespace:
    assert given["temperature"] == 0
    assert given["ignore_eos"] is True
    return SimpleNamespace(**given)


class LLMEngine:
    def __init__(self, args: SimpleNamespace) -> None:
        print("vLLM talks on standard output")
        _go_wrong("start")
        assert args.skip_tokenizer_init
        assert args.enable_prompt_embeds
        self.args = args
        self.max_length = args.max_model_len
        self.open: dict[str, tuple[Any, SimpleNamespace, list[int], list[dict[int, Any]]]] = {}

    @cached_property
    def model(self) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        kind = getattr(torch, self.args.dtype)
        return AutoModelForCausalLM.from_pretrained(self.args.model, dtype=kind).eval()

    from_engine_args = classmethod(lambda cls, args: cls(args))

    def has_unfinished_requests(self) -> bool:
        return bool(self.open)

    def add_request(self, name: str, prompt: dict[str, Any], how: SimpleNamespace) -> None:
        embeddings = prompt["prompt_embeds"]
        assert len(embeddings) + how.max_tokens <= self.max_length
        assert name not in self.open
        self.open[name] = (embeddings, how, [], [])

    def step(self) -> list[SimpleNamespace]:
        import torch

        _go_wrong("step")
        told = []
        for name, (prompt, how, tokens, logprobs) in list(self.open.items()):
            with torch.inference_mode():
                said = self.model.get_input_embeddings()(torch.tensor(tokens, dtype=torch.long))
                read = torch.cat([prompt, said.to(prompt.dtype)])[None]
                logits = self.model(inputs_embeds=read).logits[0, -1]
            tokens.append(int(logits.argmax()))
            chosen = math.nan if os.environ.get(WRONG) == "nan" else 0.0
            logprobs.append({tokens[-1]: SimpleNamespace(logprob=chosen)})
            done = len(tokens) == how.max_tokens or tokens[-1] in how.stop_token_ids
            answer = SimpleNamespace(token_ids=tuple(tokens), logprobs=logprobs)
            told.append(SimpleNamespace(request_id=name, finished=done, outputs=[answer]))
            if done:
                del self.open[name]
        return told[::-1]


def _go_wrong(place: str) -> None:
    how, _, where = os.environ.get(WRONG, "").partition(" at ")
    if where != place:
        return
    if how == "refuses":
        raise ValueError("Model architectures ['Odd'] are not supported\nand much more")
    if how == "ends":
        print("RuntimeError: no room", file=sys.stderr)
        print("and a line after it", file=sys.stderr, flush=True)
        os._exit(3)
    if how == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
