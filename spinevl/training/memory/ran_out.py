"""A training whose device runs out of memory ends in one line that says what takes less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from spinevl.config.options import AUTO
from spinevl.io.machine import out_of_memory
from spinevl.report.metrics_file import STATES_FOLDER
from spinevl.schema.errors import UserError, escaped
from spinevl.training.launching import device_of
from spinevl.training.memory.changes import changed, with_batch
from spinevl.training.spec import TrainSpec


@contextmanager
def memory_told(spec: TrainSpec, out: Path) -> Iterator[None]:
    """Tell of memory that ran out with the keys of this training that take less.

    Args:
        spec: the training that is done within.
        out: the job's folder.

    Raises:
        UserError: the memory ran out.
    """
    try:
        yield
    except Exception as error:
        if (said := out_of_memory(error)) is None:
            raise
        raise UserError(
            f"memory: it ran out with {_batch(spec)}; {_less(spec)}{_left(out)}; the error was "
            f"{escaped(said, longest=200)}"
        ) from error


def _batch(spec: TrainSpec) -> str:
    asked = spec.config.get("trainer")
    auto = isinstance(asked, Mapping) and asked.get("batch_patients") == AUTO
    found = f", which {AUTO} found" if auto else ""
    return f"trainer.batch_patients={spec.batch_patients}{found}"


def _less(spec: TrainSpec) -> str:
    patients = spec.batch_patients
    words = [with_batch(spec, patients // 2)[0]] if patients > 1 else []
    words += [one for one, _ in changed(spec, device_of(spec.trainer.accelerator))]
    return f"it takes less with {', or with '.join(words)}" if words else "take a smaller model"


def _left(out: Path) -> str:
    if not any((out / STATES_FOLDER).glob("step-*")):
        return ""
    return (
        f"; {out / STATES_FOLDER} stays as it is: the same command goes on from its last state "
        "where more memory is free"
    )
