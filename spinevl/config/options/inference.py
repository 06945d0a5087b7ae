"""Options of answering: how answers are read off the model, and the cache of features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from spinevl.config.keys import key
from spinevl.config.options.training import Attention, Packing


class PredictMode(StrEnum):
    """Option probabilities, or greedy text that is parsed."""

    choice = "choice"
    generate = "generate"


class Scoring(StrEnum):
    """What the probability of an option is: of its choices among the options, or of its text."""

    trie = "trie"
    full = "full"


class Precision(StrEnum):
    """The number type that a checkpoint computes in; auto takes the faster one."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class History(StrEnum):
    """Whose earlier answers a conversation goes on from: the file's, or the model's own."""

    given = "given"
    own = "own"


class Engine(StrEnum):
    """What generates answers: our own decoder, or vLLM in a process of its own."""

    native = "native"
    vllm = "vllm"


class Compile(StrEnum):
    """Whether torch.compile compiles the LLM, and whether CUDA graphs replay it."""

    none = "none"
    default = "default"
    cuda_graphs = "cuda_graphs"


PREDICT_NO_MATTER = ("devices", "batch_size", "packing", "attention", "compile", "vllm_python")
"""Keys of ``predict`` that say where and how fast; answers differ by rounding at most."""


@dataclass
class PredictOptions:
    """How answers are read off the model."""

    mode: PredictMode = key(
        PredictMode.choice, help="choice: option probabilities; generate: greedy text, parsed"
    )
    scoring: Scoring = key(
        Scoring.trie,
        help="trie: an option's probability is that of decoding held to the options; full: that of "
        "its whole text",
    )
    precision: Precision = key(
        Precision.auto,
        help="float32, bfloat16, or auto: bfloat16 where this device is at least 1.3 times as fast "
        "with it; small LLMs and MedM-VL's checkpoints answer in float32",
    )
    batch_size: int = key(16, help="patients at a time; answers do not depend on it", min=1)
    devices: int | str | None = key(
        None,
        help="GPUs (on the CPU: processes) sharing the patients; null: 1, in run trainer.devices",
        pattern=(r"auto|[1-9][0-9]{0,3}", "auto or a whole number, 1 or more"),
    )
    packing: Packing = key(Packing.tree, help="as trainer.packing")
    attention: Attention = key(Attention.blocks, help="as trainer.attention")
    compile: Compile = key(
        Compile.none,
        help="torch.compile the LLM where options are scored, which takes a minute: none, default, "
        "or cuda_graphs, recorded for each length of rows, with predict.attention=flex",
    )
    plain_layers: bool = key(
        False,
        help="compute all layers as transformers does, for every token: no last layer only where "
        "it is read, no norms in fewer passes, no packed weights",
    )
    max_new_tokens: int | None = key(
        None, help="longest generated answer; null is 48, of conversations 512", min=1
    )
    repetition_penalty: float = key(
        1.0, help="of generated answers; 1 is none", min=0.01, max=1000.0
    )
    history: History = key(
        History.given, help="earlier answers of a conversation: given by the file, or own"
    )
    engine: Engine = key(
        Engine.native, help="what generates text and boxes; options are scored by native always"
    )
    vllm_python: str | None = key(
        None, help="interpreter of vLLM's environment, null: this one; the command line's alone"
    )

    @staticmethod
    def contradictions(values: Mapping[str, Any]) -> Mapping[str, str]:
        """vLLM's penalty counts the question too; blocks have too many shapes for graphs."""
        found = {}
        if values["engine"] == Engine.vllm and values["repetition_penalty"] != 1:
            found["repetition_penalty"] = "1 with predict.engine=vllm, whose penalty is another"
        if values["compile"] == Compile.cuda_graphs and values["attention"] != Attention.flex:
            found["attention"] = "flex with predict.compile=cuda_graphs"
        return found


@dataclass
class FeatureCacheOptions:
    """Features of a frozen encoder, kept in ``cache_dir`` and shared between jobs."""

    enabled: bool = key(True, help="keep the features that a frozen encoder makes of an image")
    max_gb: float = key(
        32.0, help="largest size; least recently used entries are evicted first", min=0
    )
    only_if_faster: bool = key(
        True,
        help="use them only where reading an image's features once is not slower than encoding it "
        "as often as it is used, as measured in the last week",
    )
