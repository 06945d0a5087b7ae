"""A worker: training steps of ours, LoRA on a frozen encoder, a patient a step."""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.peers import protocol
from spinevl.io.memory import keep_memory


class Training:
    """The steps that ``spinevl train`` takes, laid out as a prefix tree or side by side."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    def load(self) -> dict[str, Any]:
        """Read the checkpoint, add adapters, and write their first weights for the others."""
        import torch
        from safetensors.torch import save_file

        from benchmarks.peers import material
        from spinevl.checkpoints.load import load_checkpoint
        from spinevl.data.examples import grouped
        from spinevl.models.assemble import tuned
        from spinevl.models.held import Held

        torch.set_num_threads(self.options.threads)
        imports = protocol.memory("VmRSS")
        held = Held(auto=self.options.dtype, modes=material.LORA)
        model = load_checkpoint(self.options.material / "checkpoint", held=held).model
        torch.manual_seed(0)
        self.model = tuned(model, material.options_for_training()).train().to(self.options.device)
        self.model.encoder.eval()
        self.groups = grouped(material.closed(self.options.cache))
        adapters = {
            name.partition("layers.")[2]: tensor.detach().cpu().clone()
            for name, tensor in self.model.named_parameters()
            if tensor.requires_grad
        }
        save_file(adapters, self.options.adapters)
        self.start(rate=0.0)  # a process's first step is slow
        self.steps(patients=[0])
        return {"imports": imports, "trained": sum(one.numel() for one in adapters.values())}

    def start(self, *, rate: float) -> dict[str, Any]:
        """A new optimizer, no features kept; the seconds are those of encoding all images."""
        import torch

        from spinevl.data.images import ImageStore
        from spinevl.data.packing.collate import Collator
        from spinevl.features.store import FeatureCache
        from spinevl.inference.encode import keep_features
        from spinevl.io.image_file import load_image

        learned = [one for one in self.model.parameters() if one.requires_grad]
        self.optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=0.0)
        start = time.perf_counter()
        folder = self.options.scratch / "features"
        shutil.rmtree(folder, ignore_errors=True)
        self.collate = Collator(
            self.model.inputs(),
            ImageStore(lambda one: load_image(one.path)),
            packing=self.options.packing,
            attention=self.options.attention,
            learn=True,
        )
        half = torch.bfloat16 if self.options.dtype == "bfloat16" else None
        shown = [image for group in self.groups for _, one in group for image in one.images]
        cache = FeatureCache(folder, 10**11)
        keep_features(self.model, cache, self.collate.inputs, shown, autocast=half)
        return {"seconds": time.perf_counter() - start}

    def steps(self, *, patients: list[int]) -> dict[str, Any]:
        """A step on each of some patients."""
        losses, tokens = [], [0, 0]
        start = time.perf_counter()
        for number in patients:
            self.optimizer.zero_grad()
            batch = self.collate([self.groups[number]]).to(self.options.device)
            loss = -self.model(batch).mean()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
            tokens = [tokens[0] + batch.sequence_tokens, tokens[1] + batch.tokens]
        seconds = time.perf_counter() - start
        questions = sum(len(self.groups[number]) for number in patients)
        return {"seconds": seconds, "losses": losses, "questions": questions, "tokens": tokens}

    def memory(self) -> dict[str, Any]:
        """The most memory of this process."""
        return {"peak": protocol.peak(self.options.device)}


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--adapters", type=Path, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--packing", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--attention", default="blocks")
    options = parser.parse_args()
    keep_memory()  # as the command line does
    training = Training(options)
    names = ("load", "start", "steps", "memory")
    protocol.serve({name: getattr(training, name) for name in names})


if __name__ == "__main__":
    main()
