"""Options of the loggers that a training has beside ``metrics.csv``."""

from __future__ import annotations

from dataclasses import dataclass, fields

from spinevl.config.keys import key

_NAME = (r"(?!\.{1,2}$)[^/\\]+", "a name without / and \\")
_SAVE_DIR = "folder of the logger's files; null is OUT"


@dataclass
class CsvOptions:
    """``OUT/metrics.csv``, which every training writes: nothing to set."""


@dataclass
class TensorBoardOptions:
    """TensorBoard's files."""

    name: str | None = key(
        None, help="name of the run: its folder in tensorboard/; null is none", pattern=_NAME
    )
    save_dir: str | None = key(None, help=_SAVE_DIR)


@dataclass
class WandbOptions:
    """A run of Weights & Biases."""

    project: str = key("spinevl", help="W&B project")
    entity: str | None = key(None, help="W&B user or team; null is the key's own")
    name: str | None = key(None, help="name of the run; null is made of what varies", pattern=_NAME)
    group: str | None = key(None, help="W&B group; null is the sweep's folder")
    job_type: str | None = key(None, help="W&B job type; null is the verb")
    tags: list[str] = key([], help="W&B tags beside those made of the config")
    offline: bool = key(False, help="write W&B's files without sending them")
    save_dir: str | None = key(None, help=_SAVE_DIR)
    patients: bool = key(False, help="send patient ids and paths; false sends hashes of them")
    images: bool = key(False, help="send images of patients")


@dataclass
class LoggerOptions:
    """The loggers beside ``metrics.csv``: those that are not null."""

    csv: CsvOptions | None = key(None, help="metrics.csv alone")
    tensorboard: TensorBoardOptions | None = key(None, help="TensorBoard files; the group sets it")
    wandb: WandbOptions | None = key(None, help="a run of W&B; the group sets it")

    @property
    def chosen(self) -> dict[str, TensorBoardOptions | WandbOptions]:
        """Logger -> its options; without ``csv``, which has none."""
        named = {one.name: getattr(self, one.name) for one in fields(self)[1:]}
        return {name: options for name, options in named.items() if options is not None}
