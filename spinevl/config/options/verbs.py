"""The keys of every verb: what may stand in ``conf/VERB.yaml``.

Parts (an encoder, a data source) have no schema here: their constructor is the schema. ``None`` for
a group means "as the checkpoint was trained".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from spinevl.config.keys import key
from spinevl.config.options.debug import DebugOptions
from spinevl.config.options.inference import FeatureCacheOptions, PredictOptions
from spinevl.config.options.logger import LoggerOptions
from spinevl.config.options.playground import LimitOptions
from spinevl.config.options.training import (
    AugmentOptions,
    ImbalanceOptions,
    OptimOptions,
    Resume,
    TrainerOptions,
    TuningOptions,
    WarmupOptions,
)


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


class ExportFormat(StrEnum):
    """MedM-VL's layout, LLaVA's in transformers, or the LLM's adapter in peft's."""

    medmvl = "medmvl"
    hf = "hf"
    peft = "peft"


_FILE_NAME = (r"[A-Za-z0-9._-]+", "letters, digits, . _ and - for the middle of a file name")
_SAG_IMAGE: dict[str, Any] = {
    "help": "sagittal slices that a question shows, in this order",
    "min": 0,
    "nonempty": True,
    "unique": True,
}
_SAG_TYPE = "joint: all slices in one record; separate: one record each"
_CACHE_DIR = "folder of rendered images and features; SPINEVL_CACHE_DIR sets it too"
_DATA = "where patients and images come from"
_SPLIT = "which patients are train and which are dev"
_TASK = "what is asked"
_PROMPTS = "the wording of the questions"
_RESUME = "where the same job was cut: auto goes on from what it has, never starts anew"
_CHECKPOINT = "a training's checkpoint/, or MedM-VL's folder or hf:OWNER/NAME"


@dataclass
class PromptOptions:
    """The wording of the questions."""

    path: str | None = key(None, help="a JSON file of templates in place of the shipped ones")
    templates: dict[str, str] = key(factory=dict, help="task -> question; docs/cli.md: [image] ...")


@dataclass
class Common:
    """Keys that every verb takes."""

    trusted_targets: list[str] = key(
        [], help="packages whose classes may be built besides our own; the command line's alone"
    )


@dataclass
class Build(Common):
    """``spinevl build``"""

    data: dict[str, Any] = key(factory=dict, help=_DATA)
    split: dict[str, Any] = key(factory=dict, help=_SPLIT)
    task: dict[str, Any] = key(factory=dict, help=_TASK)
    prompts: PromptOptions = key(factory=PromptOptions, help=_PROMPTS)
    sag_image: list[int] = key([6], **_SAG_IMAGE)
    sag_type: SagType = key(SagType.joint, help=_SAG_TYPE)
    type_dataset: TypeDataset = key(
        TypeDataset.both, help="which record files are written; both: train and dev, in run all"
    )
    suffix: str | None = key(None, help="end of the record files' names", pattern=_FILE_NAME)
    output_dir: str | None = key(None, help="folder of the record files; null is OUT")
    test_answers: TestAnswers = key(
        TestAnswers.none, help="answer of test records: none is null, upstream its zeros"
    )
    resume: Resume = key(Resume.auto, help=_RESUME)
    cache_dir: str = key("~/.cache/spinevl", help=_CACHE_DIR)


@dataclass
class Train(Common):
    """``spinevl train``"""

    data: dict[str, Any] = key(factory=dict, help=_DATA)
    split: dict[str, Any] = key(factory=dict, help=_SPLIT)
    task: dict[str, Any] = key(factory=dict, help=_TASK)
    prompts: PromptOptions = key(factory=PromptOptions, help=_PROMPTS)
    sag_image: list[int] = key([6], **_SAG_IMAGE)
    sag_type: SagType = key(SagType.joint, help=_SAG_TYPE)
    test_answers: TestAnswers = key(
        TestAnswers.none, help="answer of test records: none is null, upstream its zeros"
    )
    records: str | None = key(None, help="a build's OUT to train on; null builds on the fly")
    suffix: str | None = key(None, help="end of the record files' names", pattern=_FILE_NAME)
    checkpoint: str | None = key(None, help=f"{_CHECKPOINT}; null trains new parts")
    encoder: dict[str, Any] = key(factory=dict, help="image to visual features")
    connector: dict[str, Any] = key(factory=dict, help="visual features to tokens of the LLM")
    encoder3d: dict[str, Any] | None = key(None, help="an encoder of volumes beside the 2D one")
    connector3d: dict[str, Any] | None = key(None, help="its connector; null is a second connector")
    llm: dict[str, Any] = key(factory=dict, help="the language model and its tokenizer")
    tuning: TuningOptions = key(factory=TuningOptions, help="what of each part is trained")
    optim: OptimOptions = key(factory=OptimOptions, help="optimizer, learning rates, schedule")
    trainer: TrainerOptions = key(factory=TrainerOptions, help="length, batches, device, precision")
    augment: AugmentOptions = key(factory=AugmentOptions, help="augmentation of training images")
    imbalance: ImbalanceOptions = key(factory=ImbalanceOptions, help="weights of rare classes")
    warmup: WarmupOptions = key(factory=WarmupOptions, help="auxiliary classification heads")
    logger: LoggerOptions = key(factory=LoggerOptions, help="a logger beside metrics.csv")
    feature_cache: FeatureCacheOptions = key(
        factory=FeatureCacheOptions, help="kept features of frozen encoders"
    )
    debug: DebugOptions = key(factory=DebugOptions, help="a training that is only tried")
    resume: Resume = key(Resume.auto, help=_RESUME)
    seed: int = key(0, help="of the training; data and splits have their own", min=0, max=2**32 - 1)
    cache_dir: str = key("~/.cache/spinevl", help=_CACHE_DIR)


@dataclass
class Asked(Common):
    """What a checkpoint is asked."""

    checkpoint: str | None = key(None, help=_CHECKPOINT)
    data: dict[str, Any] | None = key(None, help=_DATA)
    split: dict[str, Any] | None = key(None, help=_SPLIT)
    task: dict[str, Any] | None = key(None, help=_TASK)
    prompts: PromptOptions | None = key(None, help=_PROMPTS)
    sag_image: list[int] | None = key(None, **_SAG_IMAGE)
    sag_type: SagType | None = key(None, help=_SAG_TYPE)
    predict: PredictOptions = key(factory=PredictOptions, help="how answers are read off")
    feature_cache: FeatureCacheOptions = key(
        factory=FeatureCacheOptions, help="kept features of frozen encoders"
    )
    cache_dir: str = key("~/.cache/spinevl", help=_CACHE_DIR)


@dataclass
class Predict(Asked):
    """``spinevl predict``"""

    subset: Subset = key(Subset.test, help="the patients to answer for: dev or test")
    resume: Resume = key(Resume.auto, help=_RESUME)


@dataclass
class Report(Asked):
    """``spinevl report``"""

    subset: Subset | None = key(
        None, help="the patients to report on; null is test where their labels are known, or dev"
    )


@dataclass
class Evaluate(Common):
    """``spinevl evaluate``"""

    task: dict[str, Any] = key(factory=dict, help=_TASK)
    labels: str | None = key(None, help="the truth, in the label format")
    answers: str | None = key(None, help="a submission")
    predictions: str | None = key(None, help="predictions.jsonl, for boxes and probabilities")
    boxes: str | None = key(None, help="true boxes, for positioning")
    slices: list[int] = key(
        [5, 6, 7],
        help="numbers of the sagittal slices, as the box file lists them",
        min=0,
        nonempty=True,
        unique=True,
    )
    side_px: int | None = key(
        224, help="width and height of the images of the boxes; null takes any", min=1
    )
    train_labels: str | None = key(None, help="training labels, for the majority baselines")
    missing: Missing = key(
        Missing.error, help="refuse absent and surplus answers, or score as upstream does"
    )


@dataclass
class Export(Common):
    """``spinevl export``"""

    checkpoint: str | None = key(None, help=_CHECKPOINT)
    format: ExportFormat = key(
        ExportFormat.medmvl, help="medmvl, hf (LLaVA in transformers) or peft (the adapter alone)"
    )
    license: str = key("unknown", help="of the model card, such as apache-2.0")
    output_dir: str | None = key(None, help="folder of the export; null is OUT/FORMAT")


@dataclass
class Run(Build, Train):
    """``spinevl run``: all of it"""

    predict: PredictOptions = key(factory=PredictOptions, help="how answers are read off")


@dataclass
class Doctor(Run):
    """``spinevl doctor``: what ``run`` would read, and a submission"""

    answers: str | None = key(None, help="a submission to check in place of a study")


@dataclass
class Leaderboard(Common):
    """``spinevl leaderboard``"""

    dir: str | None = key(None, help="the folder of a sweep, its hydra.sweep.dir")


@dataclass
class Playground(Common):
    """``spinevl playground``"""

    checkpoint: str | None = key(None, help=f"{_CHECKPOINT}; null is the demo's, outputs/demo")
    host: str = key("127.0.0.1", help="address to listen at; beyond loopback a token is needed")
    port: int = key(7860, help="of the page; 0 takes a free one", min=0, max=65535)
    limits: LimitOptions = key(factory=LimitOptions, help="bounds on what browsers send")
    cache_dir: str = key("~/.cache/spinevl", help=_CACHE_DIR)


@dataclass
class Fetch(Run):
    """``spinevl fetch``: the pretrained parts of what ``run`` would train"""

    models_dir: str | None = key(
        None, help="folder for the models, which HF_HUB_CACHE then names; null is the hub's cache"
    )


SCHEMAS: dict[str, type] = {
    "build": Build,
    "train": Train,
    "predict": Predict,
    "evaluate": Evaluate,
    "report": Report,
    "export": Export,
    "run": Run,
    "doctor": Doctor,
    "leaderboard": Leaderboard,
    "playground": Playground,
    "fetch": Fetch,
}
