"""``python -m benchmarks.memory``: the memory estimate against trainings on the CPU.

Each configuration is trained for a few steps in a process of its own, whose rise above the imports
is compared with the estimate. Two constants are fitted on the first three and judged on the others.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import subject

FITTED = 3
"""The first ones fit the constants, the others judge them."""

CONFIGS: dict[str, tuple[dict[str, int], list[str]]] = {
    # name: (sizes of the LLM, overrides)
    "encoder frozen, LoRA": (
        {"width": 768, "layers": 12},
        ["tuning=lora", "warmup=none", "trainer.batch_patients=1"],
    ),
    "all weights": (
        {"width": 512, "layers": 8},
        ["tuning=full", "warmup=heads", "trainer.batch_patients=1"],
    ),
    "encoder trained, LLM frozen": (
        {"width": 512, "layers": 8},
        ["tuning=full", "tuning.llm=frozen", "warmup=none", "trainer.batch_patients=2"],
    ),
    "LoRA, plain packing": (
        {"width": 512, "layers": 10},
        ["tuning=lora", "warmup=none", "trainer.batch_patients=1", "trainer.packing=plain"],
    ),
    "all weights, gradient checkpointing": (
        {"width": 768, "layers": 10},
        [
            *("tuning=full", "tuning.encoder=frozen", "warmup=none"),
            *("trainer.batch_patients=2", "trainer.gradient_checkpointing=true"),
        ],
    ),
}


def main() -> None:
    """Measure all, or in a child process one, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--one", help="the configuration that this process trains")
    parser.add_argument("--scratch", type=Path)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_train(options.one, options.scratch)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = [_measured(name, options.scratch or Path(folder)) for name in CONFIGS]
    print("\n".join(_table(rows)))


def _spec(name: str, scratch: Path) -> Any:
    from spinevl.config.compose import compose
    from spinevl.config.plain import plain
    from spinevl.training.spec import TrainSpec

    sizes, words = CONFIGS[name]
    parts = subject.parts(scratch, **sizes)
    encoder, llm = parts["encoder"], parts["llm"]
    overrides = [
        *("encoder=clip", f"encoder.path={encoder['path']}", "encoder.pretrained=false"),
        *("llm=hf", f"llm.path={llm['path']}", "llm.pretrained=false"),
        *("data.n_train=4", "data.n_dev=2", "data.n_test=1", f"cache_dir={scratch}/cache"),
        *("trainer.accelerator=cpu", "trainer.max_epochs=1", "trainer.progress_bar=false"),
        *("debug=limit", "debug.limit_train_batches=2", *words),
    ]
    return TrainSpec.from_config(plain(compose("train", overrides)))


def _measured(name: str, scratch: Path) -> dict[str, Any]:
    """The tensors of the estimate and the measured rise, in bytes."""
    from spinevl.data.study import open_study
    from spinevl.training.memory.estimator import Estimator

    spec = _spec(name, scratch)
    study = open_study(spec.study, ("train", "dev"))
    estimate = Estimator(spec, study)(spec.batch_patients)
    command = [sys.executable, "-m", __spec__.name, "--one", name, "--scratch", str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    rise = json.loads(done.stdout.splitlines()[-1])["rise"]
    print(f"{name}: tensors {estimate.tensors / 1e9:.2f} GB, rise {rise / 1e9:.2f} GB", flush=True)
    return {"name": name, "tensors": estimate.tensors, "total": estimate.total, "rise": rise}


def _train(name: str, scratch: Path) -> dict[str, float]:
    """Train one in this process; its rise above the imports in bytes."""
    import peft  # noqa: F401
    import transformers  # noqa: F401

    from spinevl.training.spec import SPEC_FILE
    from spinevl.training.worker import train

    spec = _spec(name, scratch)
    before = _kilobytes("VmRSS")
    with tempfile.TemporaryDirectory() as out:
        spec.write(Path(out) / SPEC_FILE)
        train(Path(out))
    return {"rise": 1024 * (_kilobytes("VmHWM") - before)}


def _kilobytes(name: str) -> int:
    """A line of this process's status, such as its resident memory or the most of it."""
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """A Markdown table with the constants that are fitted on the first rows."""
    tensors = np.array([row["tensors"] for row in rows])
    rise = np.array([row["rise"] for row in rows])
    factor, fixed = _line(tensors[:FITTED], rise[:FITTED])
    lines = [
        "| training | tensors, GB | measured rise, GB | fitted, GB | off | estimate, GB | off |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for number, (row, x, y) in enumerate(zip(rows, tensors, rise, strict=True)):
        fitted = fixed + factor * x
        used = "fitted" if number < FITTED else "judged"
        lines.append(
            f"| {row['name']} ({used}) | {x / 1e9:.2f} | {y / 1e9:.2f} | {fitted / 1e9:.2f} | "
            f"{fitted / y - 1:+.1%} | {row['total'] / 1e9:.2f} | {row['total'] / y - 1:+.1%} |"
        )
    return [*lines, "", f"rise = {fixed / 1e6:.0f} MB + {factor:.3f} x tensors"]


def _line(tensors: Any, rise: Any) -> tuple[float, float]:
    """Factor and constant by least squares; tensors take at least what they hold."""
    factor, fixed = np.polyfit(tensors, rise, 1)
    if factor < 1:
        return 1.0, float(np.mean(rise - tensors))
    return float(factor), float(fixed)


if __name__ == "__main__":
    main()
