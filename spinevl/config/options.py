"""The run scalars of every verb and their types: what may stand in ``conf/VERB.yaml``.

Parts (an encoder, a data source) have no schema here: their constructor is the schema, checked
when they are built. ``None`` for a group means "as the checkpoint was trained".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class SagType(StrEnum):
    """Whether the sagittal slices of a question go into one record or into one each."""

    joint = "joint"
    separate = "separate"
    seperate = "separate"  # upstream's spelling, an alias


class TypeDataset(StrEnum):
    """Which record files are written; ``both``: train and dev, in ``run`` all that it uses."""

    train = "train"
    dev = "dev"
    test = "test"
    both = "both"


class TestAnswers(StrEnum):
    """What stands as the answer of a test record: null, or upstream's zeros."""

    none = "none"
    upstream = "upstream"


class Missing(StrEnum):
    """What happens to absent, surplus and malformed answers."""

    error = "error"
    upstream = "upstream"


class Subset(StrEnum):
    """The patients that a prediction is for."""

    dev = "dev"
    test = "test"


class PredictMode(StrEnum):
    """Option probabilities, or greedy text that is parsed."""

    choice = "choice"
    generate = "generate"


# Lightning's names of what trainer.precision takes besides auto, by their short form; weights are
# trained in float32.
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


class Packing(StrEnum):
    """How sequences are laid out; what a batch gives is the same."""

    tree = "tree"
    plain = "plain"
    off = "off"


class History(StrEnum):
    """Whose earlier answers a conversation goes on from: the file's, or the model's own."""

    given = "given"
    own = "own"


class Mode(StrEnum):
    """What of a part learns: nothing, low-rank adapters, or every weight."""

    frozen = "frozen"
    lora = "lora"
    full = "full"


class Schedule(StrEnum):
    """The learning rate after its warm-up."""

    cosine = "cosine"
    constant = "constant"


class ClassWeights(StrEnum):
    """How the loss weighs the classes of a task: by frequency ** -0.5, or all the same."""

    inverse_sqrt = "inverse_sqrt"
    none = "none"


@dataclass
class LoraOptions:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) through peft.

    Attributes:
        r, alpha, dropout: rank, scale numerator and dropout.
        targets: names of Linears, ``attention`` (all in attention, fused or not), ``mlp`` (all in
            feed-forward layers), or None: every Linear of the part but its output head.
        rslora: scale by alpha / sqrt(r), not alpha / r (Kalajdzievski 2023, arXiv 2312.03732).
        dora: learn the magnitude of each weight's columns besides (Liu et al. 2024, arXiv
            2402.09353); slower.
    """

    r: int = 16
    alpha: float = 32
    dropout: float = 0.05
    targets: Any = None
    rslora: bool = False
    dora: bool = False


@dataclass
class TuningOptions:
    """What learns of each part; an encoder and connector of volumes are tuned like the others."""

    encoder: Mode = Mode.full
    connector: Mode = Mode.full
    llm: Mode = Mode.full
    lora: LoraOptions = field(default_factory=LoraOptions)


@dataclass
class LearningRates:
    """The learning rate of each part."""

    encoder: float = 1e-3
    connector: float = 1e-3
    llm: float = 1e-3


@dataclass
class OptimOptions:
    """AdamW and its schedule."""

    lr: LearningRates = field(default_factory=LearningRates)
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: float = 0.05
    warmup_ratio: float = 0.05
    schedule: Schedule = Schedule.cosine


@dataclass
class TrainerOptions:
    """Length, batches, device and precision of a training."""

    accelerator: str = "auto"
    precision: str = "auto"
    max_epochs: int = 12
    batch_patients: int = 4
    accumulate: int = 1
    clip_norm: float | None = 1.0
    dev_checks: int = 6
    num_workers: int = 0
    progress_bar: bool = True
    compile: bool = False
    packing: Packing = Packing.tree


@dataclass
class AugmentOptions:
    """Augmentation of the images that a trained encoder reads."""

    shift_px: int = 4
    gain: float = 0.1


@dataclass
class ImbalanceOptions:
    """How the loss weighs rare classes."""

    class_weights: ClassWeights = ClassWeights.inverse_sqrt


@dataclass
class WarmupOptions:
    """Auxiliary classification heads on the visual tokens.

    Attributes:
        weight: of their loss beside the next-token loss.
        fraction: the share of all steps that train on them alone.
    """

    weight: float = 1.0
    fraction: float = 0.3


@dataclass
class PredictOptions:
    """How answers are read off the model."""

    mode: PredictMode = PredictMode.choice
    batch_size: int = 16
    packing: Packing = Packing.tree
    max_new_tokens: int | None = None
    repetition_penalty: float = 1.0
    history: History = History.given


@dataclass
class FeatureCacheOptions:
    """Features of a frozen encoder, kept in ``cache_dir`` and shared between jobs."""

    enabled: bool = True
    max_gb: float = 32.0


@dataclass
class Common:
    """Keys that every verb takes."""

    trusted_targets: list[str] = field(default_factory=list)


@dataclass
class Build(Common):
    """``spinevl build``"""

    data: dict[str, Any] = field(default_factory=dict)
    split: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, Any] = field(default_factory=dict)
    sag_image: list[int] = field(default_factory=lambda: [6])
    sag_type: SagType = SagType.joint
    type_dataset: TypeDataset = TypeDataset.both
    suffix: str | None = None
    output_dir: str | None = None
    test_answers: TestAnswers = TestAnswers.none
    cache_dir: str = "~/.cache/spinevl"


@dataclass
class Train(Common):
    """``spinevl train``"""

    data: dict[str, Any] = field(default_factory=dict)
    split: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, Any] = field(default_factory=dict)
    sag_image: list[int] = field(default_factory=lambda: [6])
    sag_type: SagType = SagType.joint
    test_answers: TestAnswers = TestAnswers.none
    records: str | None = None
    suffix: str | None = None
    checkpoint: str | None = None
    encoder: dict[str, Any] = field(default_factory=dict)
    connector: dict[str, Any] = field(default_factory=dict)
    encoder3d: dict[str, Any] | None = None
    connector3d: dict[str, Any] | None = None
    llm: dict[str, Any] = field(default_factory=dict)
    tuning: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    warmup: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] | None = None
    feature_cache: FeatureCacheOptions = field(default_factory=FeatureCacheOptions)
    seed: int = 0
    cache_dir: str = "~/.cache/spinevl"


@dataclass
class Predict(Common):
    """``spinevl predict``"""

    checkpoint: str | None = None
    subset: Subset = Subset.test
    data: dict[str, Any] | None = None
    split: dict[str, Any] | None = None
    task: dict[str, Any] | None = None
    prompts: dict[str, Any] | None = None
    sag_image: list[int] | None = None
    sag_type: SagType | None = None
    predict: PredictOptions = field(default_factory=PredictOptions)
    feature_cache: FeatureCacheOptions = field(default_factory=FeatureCacheOptions)
    cache_dir: str = "~/.cache/spinevl"


@dataclass
class Evaluate(Common):
    """``spinevl evaluate``"""

    task: dict[str, Any] = field(default_factory=dict)
    labels: str | None = None
    answers: str | None = None
    predictions: str | None = None
    boxes: str | None = None
    train_labels: str | None = None
    missing: Missing = Missing.error


class ExportFormat(StrEnum):
    """MedM-VL's layout, LLaVA's in transformers, or the LLM's adapter in peft's."""

    medmvl = "medmvl"
    hf = "hf"
    peft = "peft"


@dataclass
class Export(Common):
    """``spinevl export``"""

    checkpoint: str | None = None
    format: ExportFormat = ExportFormat.medmvl
    license: str = "unknown"
    output_dir: str | None = None


@dataclass
class Run(Build, Train):
    """``spinevl run``: all of it"""

    predict: PredictOptions = field(default_factory=PredictOptions)


@dataclass
class Doctor(Run):
    """``spinevl doctor``: what ``run`` would read, and a submission"""

    answers: str | None = None


SCHEMAS: dict[str, type] = {
    "build": Build,
    "train": Train,
    "predict": Predict,
    "evaluate": Evaluate,
    "export": Export,
    "run": Run,
    "doctor": Doctor,
}
