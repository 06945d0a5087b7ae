"""Trainings of one worker, one after the other in one group of processes; see test_parity.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spinevl.build.trust import Trust
from spinevl.distributed.group import joined
from spinevl.distributed.ranks import barrier
from spinevl.models.sharded import is_sharded
from spinevl.models.vlm import VLM
from spinevl.training import strategy, worker
from spinevl.training.spec import TrainSpec
from spinevl.training.worker import train


def work(words: Sequence[str]) -> None:
    """Train in each of some folders."""
    divide_all()
    watch_shares()
    with joined("cpu", processes=2):
        for folder in map(Path, words):
            score = train(folder)
            print(json.dumps({"case": folder.name, "score": score}), flush=True)
            barrier()


def divide_all() -> None:
    """Have ZeRO-3 divide every weight: by default it leaves small ones whole."""
    original = strategy.zero_config

    def config(options: object) -> dict[str, object]:
        found = original(options)  # type: ignore[arg-type]
        found["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return found

    strategy.zero_config = config  # type: ignore[assignment]


def watch_shares() -> None:
    """See that ZeRO-3 reads a pretrained LLM as shares, and that nothing else does."""
    original = worker.starting_model

    def model_of(spec: TrainSpec, trust: Trust) -> tuple[VLM, dict[str, Any]]:
        model, parts = original(spec, trust)
        pretrained = not spec.checkpoint and "path" in spec.parts["llm"]
        expected = pretrained and spec.trainer.strategy.startswith("deepspeed_zero3")
        for name, weight in model.llm.model.named_parameters():
            assert is_sharded(weight) == (expected and "lora_" not in name), name
        return model, parts

    worker.starting_model = model_of
