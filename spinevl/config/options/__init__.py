"""Every option that is not an object: dataclasses whose fields say what they mean and take."""

from spinevl.config.options.debug import DebugOptions, Profiler
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
    LossMean,
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
    "DebugOptions",
    "ExportFormat",
    "FeatureCacheOptions",
    "History",
    "ImbalanceOptions",
    "LearningRates",
    "LoggerKind",
    "LoggerOptions",
    "LoraOptions",
    "LossMean",
    "Missing",
    "Mode",
    "OptimOptions",
    "Packing",
    "PredictMode",
    "PredictOptions",
    "Profiler",
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
