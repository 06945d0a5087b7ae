"""``python -m benchmarks.scaling``: gigabytes a device by model, images and strategy, on paper.

Nothing is trained and no weights are read: decoders of the sizes of Qwen2.5 are built without
memory, and a step of one patient is rehearsed as on a GPU with bfloat16.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import subject

# billions of parameters -> width, feed-forward, layers, heads, key heads, tied embeddings
SIZES: dict[str, tuple[int, int, int, int, int, bool]] = {
    "0.5": (896, 4864, 24, 14, 2, True),
    "1.5": (1536, 8960, 28, 12, 2, True),
    "3": (2048, 11008, 36, 16, 2, True),
    "7": (3584, 18944, 28, 28, 4, False),
}
TASKS = {1: "task=[qd]", 12: "task=[qd,sl,zjppt,zyzg]"}  # images of a patient
LORA = ("tuning=lora", "llm.dtype=bfloat16", "encoder.dtype=bfloat16")
FULL = ("tuning=full", "tuning.encoder=frozen", "trainer.strategy=deepspeed_zero3")
SHARED = (
    *(("deepspeed_zero1", 8), ("deepspeed_zero2", 8)),
    *(("deepspeed_zero3", 8), ("deepspeed_zero3", 64)),
)
CARDS = (24e9, 80e9)


FEW, MORE = 8, 16
"""Batches of patients, from which others are extrapolated; fewer may need no more than dev does."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("sizes", nargs="*", default=list(SIZES), help="billions of parameters")
    sizes = parser.parse_args().sizes
    heads = ["LLM, B", "images", "tokens", "LoRA of nf4", "LoRA"]
    heads += [f"patients, {size / 1e9:.0f} GB" for size in CARDS]
    heads += [f"full, {name.removeprefix('deepspeed_')}, {world}" for name, world in SHARED]
    print(f"| {' | '.join(heads)} |")
    print("| --- " * len(heads) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            for images, task in TASKS.items():
                print(_row(size, images, task, Path(folder)), flush=True)


def _row(size: str, images: int, task: str, scratch: Path) -> str:
    from spinevl.training.memory.estimate import estimated
    from spinevl.training.memory.sharding import Sharding

    lora = _estimator(size, (*LORA, task), scratch)
    four = _estimator(size, (*LORA, "llm.quantize=nf4", task), scratch)
    step = _estimator(size, (*FULL, task), scratch).rehearsed(1)
    shared = [
        estimated(step, Sharding(name, world), batch_patients=1, device="cuda").total
        for name, world in SHARED
    ]
    cells = [size, f"{images}", f"{step.tokens:,}", *_gigabytes(four(1).total, lora(1).total)]
    cells += [_patients(lora, card) for card in CARDS]
    return f"| {' | '.join([*cells, *_gigabytes(*shared)])} |"


def _gigabytes(*sizes: float) -> list[str]:
    return [f"{size / 1e9:.1f}" for size in sizes]


def _patients(estimator: Any, card: float) -> str:
    """About how many patients a step ``trainer.batch_patients=auto`` takes on a card."""
    from spinevl.training.memory.settle import MOST_PATIENTS, SAFE

    one, few, more = (estimator(number).total for number in (1, FEW, MORE))
    if one > SAFE * card:
        return "0"
    found = FEW + int((SAFE * card - few) * (MORE - FEW) / (more - few))
    return f"{min(max(found, 1), MOST_PATIENTS)}"


def _estimator(size: str, words: tuple[str, ...], scratch: Path) -> Any:
    from spinevl.config.compose import compose
    from spinevl.config.plain import plain
    from spinevl.data.study import open_study
    from spinevl.training.memory.estimator import Estimator
    from spinevl.training.spec import TrainSpec

    encoder = subject.parts(scratch, patch=16)["encoder"]["path"]
    overrides = [
        *("encoder=clip", f"encoder.path={encoder}", "llm=hf", f"llm.path={_llm(size, scratch)}"),
        *(f"data.n_train={MORE}", "data.n_dev=1", "data.n_test=1", f"cache_dir={scratch}/cache"),
        *("warmup=none", "trainer.precision=bf16-mixed", "trainer.gradient_checkpointing=true"),
        *("feature_cache.enabled=false", *words),
    ]
    spec = TrainSpec.from_config(plain(compose("train", overrides)))
    study = open_study(spec.study, ("train", "dev"))
    return Estimator(spec, study, device="cuda")


def _llm(size: str, scratch: Path) -> Path:
    """A folder with the config of a size and a tokenizer."""
    width, feed, layers, heads, key_heads, tied = SIZES[size]
    return subject.decoder(
        scratch / f"qwen-{size}",
        vocab_size=151936,
        hidden_size=width,
        intermediate_size=feed,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=32768,
        tie_word_embeddings=tied,
    )


if __name__ == "__main__":
    main()
