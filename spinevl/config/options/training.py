"""Options of a training: what is trained, how it is optimised, and what the loss weighs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from spinevl.config.keys import key

# Lightning's names of what trainer.precision takes besides auto, by their short form; weights are
# trained in float32.
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}

STRATEGIES = (
    *("auto", "ddp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3"),
    "deepspeed_zero3_offload",
)


# a value that is found out
AUTO = "auto"


class Packing(StrEnum):
    """How sequences are laid out; what a batch gives is the same."""

    tree = "tree"
    plain = "plain"
    off = "off"


class Attention(StrEnum):
    """How an LLM's attention over packed rows is computed; both are the same up to rounding."""

    blocks = "blocks"
    flex = "flex"


class Mode(StrEnum):
    """What of a part is trained: nothing, low-rank adapters, or every weight."""

    frozen = "frozen"
    lora = "lora"
    full = "full"


class Schedule(StrEnum):
    """The learning rate after its warm-up."""

    cosine = "cosine"
    constant = "constant"


class LossMean(StrEnum):
    """What the next-token loss is a mean over: answers, however long each, or tokens."""

    answer = "answer"
    token = "token"


class Resume(StrEnum):
    """What a command does where the same one was cut: go on, or start anew."""

    auto = "auto"
    never = "never"


class ClassWeights(StrEnum):
    """How the loss weighs the classes of a task: by frequency ** -0.5, or all the same."""

    inverse_sqrt = "inverse_sqrt"
    none = "none"


@dataclass
class LoraOptions:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) through peft.

    Sources: ``rslora`` is Kalajdzievski 2023 (arXiv 2312.03732), ``dora`` Liu et al. 2024 (arXiv
    2402.09353).
    """

    r: int = key(16, help="rank of the adapters", min=1)
    alpha: float = key(32, help="numerator of the adapters' scale alpha / r", above=0)
    dropout: float = key(0.05, help="dropout before the adapters", min=0, below=1)
    targets: Any = key(
        None, help="attention, mlp or a list of Linear names; null adapts all but the output head"
    )
    rslora: bool = key(False, help="scale by alpha / sqrt(r) instead of alpha / r")
    dora: bool = key(False, help="train the magnitude of each weight column as well; slower")

    @staticmethod
    def contradictions(values: Mapping[str, Any]) -> Mapping[str, str]:
        """``targets`` has a type that no annotation of OmegaConf can say."""
        targets = values.get("targets")
        if isinstance(targets, (list, tuple)) and targets:
            if all(isinstance(one, str) and one for one in targets):
                return {}
        elif targets is None or targets in ("attention", "mlp"):
            return {}
        return {"targets": "attention, mlp, null or a list of names such as [q_proj,v_proj]"}


@dataclass
class TuningOptions:
    """What of each part is trained; an encoder and connector of volumes follow the image ones."""

    encoder: Mode = key(Mode.full, help="what of the encoder is trained: frozen, lora or full")
    connector: Mode = key(
        Mode.full,
        help="what of the connector is trained: frozen or full",
        choices=("frozen", "full"),
    )
    llm: Mode = key(Mode.full, help="what of the LLM is trained: frozen, lora or full")
    lora: LoraOptions = key(factory=LoraOptions, help="the adapters of parts with mode lora")

    @staticmethod
    def contradictions(values: Mapping[str, Any]) -> Mapping[str, str]:
        """A training in which no part is trained."""
        if any(values[part] != "frozen" for part in ("encoder", "connector", "llm")):
            return {}
        return {"llm": "full or lora, since all parts are frozen and nothing would be trained"}


@dataclass
class LearningRates:
    """The learning rate of each part.

    ``conf/optim/adamw.yaml`` sets each to a resolver that follows what is trained
    (spinevl.config.resolvers.learning_rate); the defaults here are those from scratch.
    """

    encoder: float = key(1e-3, help="learning rate of the encoder", min=0, max=1)
    connector: float = key(1e-3, help="learning rate of the connector", min=0, max=1)
    llm: float = key(1e-3, help="learning rate of the LLM", min=0, max=1)
    heads: float = key(
        1e-3, help="learning rate of the auxiliary heads, which always start anew", min=0, max=1
    )


@dataclass
class OptimOptions:
    """AdamW and its schedule."""

    lr: LearningRates = key(factory=LearningRates, help="learning rate of each part")
    betas: list[float] = key(
        [0.9, 0.95], help="AdamW's decay rates of its two moments", length=2, min=0, below=1
    )
    weight_decay: float = key(
        0.05, help="AdamW's weight decay; norms, biases and embeddings have none", min=0
    )
    warmup_ratio: float = key(0.05, help="share of steps with a rising rate", min=0, max=1)
    schedule: Schedule = key(Schedule.cosine, help="the rate after its warm-up: cosine or constant")


@dataclass
class TrainerOptions:
    """Length, batches, device and precision of a training."""

    accelerator: str = key(
        "auto",
        help="device: auto takes a GPU where there is one",
        choices=("auto", "cpu", "gpu", "cuda", "mps"),
    )
    devices: int | str = key(
        1,
        help="GPUs (on the CPU: processes) of each node; auto takes every GPU that is there",
        pattern=(r"auto|[1-9][0-9]{0,3}", "auto or a whole number, 1 or more"),
    )
    num_nodes: int = key(1, help="machines of a SLURM job, with trainer.devices on each", min=1)
    strategy: str = key(
        "auto",
        help="how several devices share the training; auto is ddp where there are several",
        choices=STRATEGIES,
    )
    precision: str = key(
        "auto",
        help="auto, 32-true, bf16-mixed or 16-mixed; weights that learn are kept in float32",
        choices=("auto", *PRECISIONS.values(), *PRECISIONS),
    )
    max_epochs: int = key(12, help="passes over the training patients", min=1)
    batch_patients: int | str = key(
        4,
        help="patients (or conversations) a step of each device; auto takes the most that fit it",
        pattern=(rf"{AUTO}|[1-9][0-9]{{0,5}}", "auto or a whole number, 1 or more"),
    )
    accumulate: int = key(1, help="steps an optimizer update", min=1)
    clip_norm: float | None = key(1.0, help="largest gradient norm; null does not clip", above=0)
    dev_checks: int = key(
        6, help="how often dev is scored in a training; the best score is kept", min=1
    )
    early_stop: int | None = key(
        None,
        help="end after so many dev scores without a better one; null does not",
        min=1,
    )
    ema: float | None = key(
        None,
        help="decay of an average of the trained weights, which is scored and kept; null is none",
        above=0,
        below=1,
    )
    save_every: str = key(
        "10min",
        help="optimizer steps (50) or minutes (10min) from one saved state to the next",
        pattern=(r"[1-9][0-9]{0,8}(min)?", "a number of optimizer steps, 50, or minutes, 10min"),
    )
    keep: int = key(
        2, help="saved states that are kept while the training runs: the last ones", min=1
    )
    keep_best: int = key(
        1,
        help="how many checkpoints are kept, those with the best dev scores; more than 1 are in "
        "checkpoints/step-N, and the best one is in checkpoint/ too",
        min=1,
    )
    num_workers: int = key(0, help="processes that load images beside the main one", min=0, max=256)
    progress_bar: bool = key(True, help="show progress on the terminal")
    loss: LossMean = key(
        LossMean.answer,
        help="answer: an answer weighs the same however long; token: each of its tokens does",
    )
    compile: bool = key(False, help="torch.compile the LLM: slower to start, faster on GPUs")
    gradient_checkpointing: bool = key(
        False, help="compute layers again in the backward pass: less memory, a third slower"
    )
    packing: Packing = key(
        Packing.tree, help="tree shares prefixes, plain packs side by side, off pads"
    )
    attention: Attention = key(
        Attention.blocks,
        help="blocks: small masks, on every device; flex: FlexAttention, no masks, CUDA GPUs alone",
    )
    plain_layers: bool = key(False, help="compute all layers as transformers and peft do")

    @staticmethod
    def contradictions(values: Mapping[str, Any]) -> Mapping[str, str]:
        """DeepSpeed keeps the weights that learn where nothing else can average them."""
        if values["ema"] is None or not values["strategy"].startswith("deepspeed"):
            return {}
        return {"ema": f"null with trainer.strategy={values['strategy']}"}


@dataclass
class AugmentOptions:
    """Augmentation of the images that a trained encoder reads."""

    shift_px: int = key(4, help="largest random shift in each direction, in pixels", min=0)
    gain: float = key(0.1, help="largest random change of contrast, relative", min=0, max=1)


@dataclass
class ImbalanceOptions:
    """How the loss weighs rare classes."""

    class_weights: ClassWeights = key(
        ClassWeights.inverse_sqrt,
        help="weight of a class: inverse_sqrt is its frequency ** -0.5, none is 1",
    )


@dataclass
class WarmupOptions:
    """Auxiliary classification heads on the visual tokens."""

    weight: float = key(
        1.0, help="weight of the auxiliary loss beside the next-token loss; 0 is no heads", min=0
    )
    fraction: float = key(
        0.3, help="share of epochs that train on the auxiliary loss alone", min=0, max=0.95
    )
