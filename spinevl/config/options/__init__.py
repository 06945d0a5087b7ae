"""Every option that is not an object: dataclasses whose fields say what they mean and take."""

from spinevl.config.options.inference import (
    FeatureCacheOptions,
    History,
    PredictMode,
    PredictOptions,
)
from spinevl.config.options.logger import LoggerKind, LoggerOptions
from spinevl.config.options.training import (
    PRECISIONS,
    AugmentOptions,
    ClassWeights,
    ImbalanceOptions,
    LearningRates,
    LoraOptions,
    Mode,
    OptimOptions,
    Packing,
    Schedule,
    TrainerOptions,
    TuningOptions,
    WarmupOptions,
)
from spinevl.config.options.verbs import (
    SCHEMAS,
    ExportFormat,
    Missing,
    PromptOptions,
    SagType,
    Subset,
    TestAnswers,
    TypeDataset,
)

__all__ = [
    "PRECISIONS",
    "SCHEMAS",
    "AugmentOptions",
    "ClassWeights",
    "ExportFormat",
    "FeatureCacheOptions",
    "History",
    "ImbalanceOptions",
    "LearningRates",
    "LoggerKind",
    "LoggerOptions",
    "LoraOptions",
    "Missing",
    "Mode",
    "OptimOptions",
    "Packing",
    "PredictMode",
    "PredictOptions",
    "PromptOptions",
    "SagType",
    "Schedule",
    "Subset",
    "TestAnswers",
    "TrainerOptions",
    "TuningOptions",
    "TypeDataset",
    "WarmupOptions",
]
