"""A worker: ours and the plain loop, closed questions and generated answers, on one checkpoint."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.peers import protocol
from spinevl.io.memory import keep_memory


class Ours:
    """Answers with our Predictor, or with the plain loop of ``benchmarks.naive``."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    def load(self) -> dict[str, Any]:
        """Read the checkpoint; the features of all images are kept for the warm rounds."""
        import torch

        from benchmarks import flops
        from benchmarks.peers import material
        from spinevl.checkpoints.load import load_checkpoint
        from spinevl.config.options import PredictOptions
        from spinevl.data.examples import grouped
        from spinevl.inference.precision import held_in, pack_weights, ready, settled

        torch.set_num_threads(self.options.threads)
        imports = protocol.memory("VmRSS")
        start = time.perf_counter()
        folder, cache = self.options.material / "checkpoint", self.options.cache
        asked = PredictOptions(
            precision=self.options.dtype,
            scoring=self.options.scoring,
            attention=self.options.attention,
        )
        found = settled(
            asked, checkpoint=folder, device=self.options.device, cache_folder=lambda: cache
        )
        self.found = found
        loaded = load_checkpoint(folder, held=held_in(found.precision))
        self.model = ready(loaded.model, found.precision).to(self.options.device)
        if not self.options.plain and not self.options.vllm:
            pack_weights(self.model, found, writes=self.options.generates)
        self.asked = {"closed": material.closed(cache, self.options.patients)}
        if self.options.generates:
            count = self.options.conversations
            self.asked["boxes"] = material.boxes(cache)
            self.asked["conversations"] = material.conversations(cache, count)
        self.n_rounds = 0
        self.engine = self._engine() if self.options.vllm else None
        told: dict[str, Any] = {"seconds": time.perf_counter() - start, "imports": imports}
        told["precision"] = str(found.precision)
        if not self.options.generates and not self.options.plain:
            predictor = self._predictor(warm=True)
            predictor.predict(self.asked["closed"])
            batch = predictor.collate(grouped(self.asked["closed"]))
            images = len(batch.pixel_values)
            warm = flops.decoder(self.model, batch) + flops.connector(self.model, images)
            cold = warm + flops.encoder(self.model, images)
            count = self.options.patients
            told["flop_a_patient"] = {"warm": warm / count, "cold": cold / count}
        return told

    def _predictor(self, *, warm: bool, **options: Any) -> Any:
        from spinevl.features.store import FeatureCache
        from spinevl.inference.predictor import Predictor
        from spinevl.io.image_file import load_image

        folder = self.options.scratch / ("warm" if warm else f"cold{self.n_rounds}")
        return Predictor(
            self.model,
            lambda image: load_image(image.path),
            options=replace(self.found, **options),
            cache=FeatureCache(folder, max_bytes=10**11),
            engine=self.engine,
        )

    def _engine(self) -> Any:
        """``predict.engine=vllm`` as a job sets it up."""
        from spinevl.checkpoints.decoder import write_decoder
        from spinevl.inference.vllm_process import VLLMProcess

        scratch = self.options.scratch.absolute()
        shutil.rmtree(scratch / "llm", ignore_errors=True)
        write_decoder(scratch / "llm", self.model.llm)
        return VLLMProcess(
            self.options.vllm,
            model=scratch / "llm",
            prompts=scratch / "prompts",
            log=scratch / "vllm.log",
            device=self.options.device,
        )

    def choose(self, *, warm: bool) -> dict[str, Any]:
        """The choices and probabilities of the closed questions, with empty or filled caches."""
        self.model.llm.use_prefix_attention()
        self.n_rounds += 1
        predictor = self._predictor(warm=warm)
        start = time.perf_counter()
        found = predictor.predict(self.asked["closed"])
        seconds = time.perf_counter() - start
        shutil.rmtree(self.options.scratch / f"cold{self.n_rounds}", ignore_errors=True)
        return {
            "seconds": seconds,
            "choices": [one.choice for one in found],
            "probabilities": [
                [one.probabilities[label] for label in sorted(one.probabilities)] for one in found
            ],
        }

    def plain(self, *, batch_size: int, patients: int) -> dict[str, Any]:
        """The plain loop: every use of an image is encoded, 16 tokens are generated."""
        import torch

        from benchmarks import naive

        examples = self.asked["closed"][: patients * 18]
        start = time.perf_counter()
        with torch.inference_mode(), self.model.llm.autocast():
            naive.predict(self.model, examples, batch_size=batch_size)
        return {"seconds": time.perf_counter() - start}

    def generate(self, *, what: str, max_new_tokens: int) -> dict[str, Any]:
        """Generated answers, with empty caches."""
        self.model.llm.use_prefix_attention()
        self.n_rounds += 1
        predictor = self._predictor(warm=False, mode="generate", max_new_tokens=max_new_tokens)
        if self.engine is not None:
            self.engine.close()  # with its caches
            predictor.writer.start(self.asked[what])
            list(predictor.answers(self.asked[what][:1]))  # the first steps of a process are slow
        start = time.perf_counter()
        answers = dict(predictor.answers(self.asked[what]))
        seconds = time.perf_counter() - start
        shutil.rmtree(self.options.scratch / f"cold{self.n_rounds}", ignore_errors=True)
        return {"seconds": seconds, "texts": _texts(answers, len(self.asked[what]))}

    def memory(self) -> dict[str, Any]:
        """The most memory of this process."""
        return {"peak": protocol.peak(self.options.device)}


def _texts(answers: dict[int, Any], count: int) -> Sequence[str]:
    return [str(answers[index].rounds[-1][1]) for index in range(count)]


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--dtype", required=True, help="float32, bfloat16 or auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scoring", default="trie")
    parser.add_argument("--attention", default="blocks")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--patients", type=int, default=4, help="whose questions are asked")
    parser.add_argument("--conversations", type=int, default=100)
    parser.add_argument("--vllm", help="the interpreter of vLLM, which then generates for ours")
    parser.add_argument("--generates", action="store_true")
    parser.add_argument("--plain", action="store_true", help="the plain loop alone is asked for")
    options = parser.parse_args()
    if not options.plain:  # as the command line does
        keep_memory()
    ours = Ours(options)
    names = ("load", "choose", "plain", "generate", "memory")
    protocol.serve({name: getattr(ours, name) for name in names})


if __name__ == "__main__":
    main()
