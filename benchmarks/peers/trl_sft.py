"""A worker: TRL's SFTTrainer on the export, LoRA on the decoder's linear layers.

It refuses packing and padding-free batches for images, so its batches are padded, and every image
is encoded in every step. Nothing of ours is needed.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.peers import protocol

LAYERS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"


class Training:
    """Trainings of some steps each, on the same adapters."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    def load(self) -> dict[str, Any]:
        """Read the export and add adapters."""
        import torch
        from peft import LoraConfig, get_peft_model
        from safetensors.torch import load_file
        from transformers import AutoProcessor, LlavaForConditionalGeneration
        from trl import SFTTrainer  # noqa: F401

        torch.set_num_threads(self.options.threads)
        imports = protocol.memory("VmRSS")
        folder = self.options.material
        self.asked = json.loads((folder / "closed.json").read_text())
        self.patients = list(dict.fromkeys(one["patient"] for one in self.asked))
        dtype = getattr(torch, self.options.dtype)
        llava = LlavaForConditionalGeneration.from_pretrained(folder / "hf", dtype=dtype)
        self.processor = AutoProcessor.from_pretrained(folder / "hf")
        lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=LAYERS)
        self.model = get_peft_model(llava, lora)
        trained = {name: one for name, one in self.model.named_parameters() if one.requires_grad}
        for name, tensor in load_file(self.options.adapters).items():
            found = next(one for known, one in trained.items() if known.endswith(f".{name}"))
            found.data.copy_(tensor)
        self.steps(patients=[0], rate=0.0)  # a process's first step is slow
        told = {"imports": imports, "trained": sum(one.numel() for one in trained.values())}
        names = ("trl", "peft", "torch", "transformers")
        return {**told, "versions": protocol.versions(*names)}

    def steps(self, *, patients: list[int], rate: float) -> dict[str, Any]:
        """A training with a step on each of some patients, and a new optimizer."""
        chosen = [self.patients[number] for number in patients]
        rows = [one for name in chosen for one in self.asked if one["patient"] == name]
        trainer, clock = self._trainer(rows, len(rows) // len(patients), rate)
        trainer.train()
        losses = [one["loss"] for one in trainer.state.log_history if "loss" in one]
        return {"seconds": clock.seconds, "losses": losses, "questions": len(rows)}

    def _trainer(self, rows: list[dict[str, Any]], step: int, rate: float) -> Any:
        from datasets import Dataset, Image, List
        from transformers import TrainerCallback
        from trl import SFTConfig, SFTTrainer

        columns = ("prompt", "completion", "images")
        dataset = Dataset.from_list([{name: one[name] for name in columns} for one in rows])
        dataset = dataset.cast_column("images", List(Image()))

        class Clock(TrainerCallback):
            """Seconds from the first batch to the end of the last step."""

            def on_train_begin(self, *_: Any, **__: Any) -> None:
                self.start = time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                self.seconds = time.perf_counter() - self.start

        clock = Clock()
        config = SFTConfig(
            output_dir=str(self.options.scratch),
            per_device_train_batch_size=self.options.batch_size,
            gradient_accumulation_steps=-(-step // self.options.batch_size),
            num_train_epochs=1,
            learning_rate=rate,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=0.0,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=self.options.device == "cpu",
            bf16=self.options.dtype == "bfloat16",
            gradient_checkpointing=self.options.checkpointing,
            max_length=None,
            train_sampling_strategy="sequential",
        )
        trainer = SFTTrainer(
            self.model,
            args=config,
            train_dataset=dataset,
            processing_class=self.processor,
            callbacks=[clock],
        )
        return trainer, clock

    def memory(self) -> dict[str, Any]:
        """The most memory of this process."""
        return {"peak": protocol.peak(self.options.device)}


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--adapters", type=Path, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=6)
    parser.add_argument("--checkpointing", action="store_true")
    training = Training(parser.parse_args())
    names = ("load", "steps", "memory")
    protocol.serve({name: getattr(training, name) for name in names})


if __name__ == "__main__":
    main()
