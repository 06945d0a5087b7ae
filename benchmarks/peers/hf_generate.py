"""A worker: ``generate`` of transformers on the export, in batches with a static cache."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.peers import protocol


class Generation:
    """Padded batches of questions, answered greedily."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    def load(self) -> dict[str, Any]:
        """Read the export."""
        import torch
        from transformers import AutoProcessor, LlavaForConditionalGeneration

        torch.set_num_threads(self.options.threads)
        imports = protocol.memory("VmRSS")
        start = time.perf_counter()
        folder = self.options.material
        self.asked = json.loads((folder / "closed.json").read_text())
        dtype = getattr(torch, self.options.dtype)
        llava: Any = LlavaForConditionalGeneration
        model = llava.from_pretrained(folder / "hf", dtype=dtype).eval()
        self.model = model.to(self.options.device)
        self.processor = AutoProcessor.from_pretrained(folder / "hf")
        self.choose(batch_size=2, count=2)
        told = {"seconds": time.perf_counter() - start, "imports": imports}
        return {**told, "versions": protocol.versions("transformers", "torch")}

    def choose(self, *, batch_size: int, count: int | None = None) -> dict[str, Any]:
        """Answers to the closed questions, 16 tokens at most; None where it is no option."""
        import torch
        from PIL import Image

        texts: list[str] = []
        asked = self.asked[:count]
        start = time.perf_counter()
        for first in range(0, len(asked), batch_size):
            batch = asked[first : first + batch_size]
            images = [[Image.open(file).convert("RGB") for file in one["images"]] for one in batch]
            inputs = self.processor(
                images=images,
                text=[one["prompt"] for one in batch],
                padding=True,
                padding_side="left",
                add_special_tokens=False,
                return_tensors="pt",
            ).to(self.options.device)
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
            with torch.inference_mode():
                output = self.model.generate(
                    **inputs,
                    do_sample=False,
                    max_new_tokens=16,
                    cache_implementation="static",
                )
            new = output[:, inputs["input_ids"].shape[1] :]
            texts += self.processor.batch_decode(new, skip_special_tokens=True)
        seconds = time.perf_counter() - start
        return {
            "seconds": seconds,
            "choices": [
                one["options"].index(text.strip()) if text.strip() in one["options"] else None
                for one, text in zip(asked, texts, strict=True)
            ],
        }

    def memory(self) -> dict[str, Any]:
        """The most memory of this process."""
        return {"peak": protocol.peak(self.options.device)}


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    generation = Generation(parser.parse_args())
    names = ("load", "choose", "memory")
    protocol.serve({name: getattr(generation, name) for name in names})


if __name__ == "__main__":
    main()
