"""Paired differences of the settings of a sweep, from the answers that its jobs have left."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spinevl.build.build import build_stored
from spinevl.config.tasks import build_tasks
from spinevl.evaluation.answer_files import DEV_PREDICTIONS_FILE, PREDICTIONS_FILE
from spinevl.evaluation.choices import read_choices
from spinevl.evaluation.paired import Answered, PairedBootstrap, paired_difference
from spinevl.io.hashing import stamp
from spinevl.jobs.folder import CONFIG_FILE, read_config
from spinevl.jobs.identity import as_trained
from spinevl.report.leaderboard.rows import Row
from spinevl.report.leaderboard.settings import Paired, Setting
from spinevl.report.metrics_file import METRICS_FILE
from spinevl.schema.errors import UserError

_SAME = 1e-9  # a score that was read, and the same computed again


def with_differences(settings: Sequence[Setting], sweep: Path) -> list[Setting]:
    """The settings with their difference to the best, or why there is none.

    Args:
        settings: best first.
        sweep: the folder in which their jobs lie.
    """
    if not settings or settings[0].rank is None:
        return list(settings)
    best, *others = settings
    found = {_key(one): _pairs(one, best, sweep) for one in others if one.scored}
    pairs = [pair for one in found.values() if not isinstance(one, str) for pair in one]
    bootstrap = PairedBootstrap(patient for pair in pairs for patient in pair.own.ids)
    scores = functools.cache(lambda answered: bootstrap.scores(answered))

    def compared(one: Setting) -> Setting:
        told = found.get(_key(one))
        if told is None or isinstance(told, str):
            return replace(one, unpaired=told)
        patients = {patient for pair in told for patient in pair.own.ids}
        delta = paired_difference(
            [scores(pair.own) for pair in told],
            [scores(pair.best) for pair in told],
            n_patients=len(patients),
        )
        return replace(one, paired=Paired(delta, told[0].subset, len(patients), len(told)))

    return [best, *map(compared, others)]


def _key(one: Setting) -> tuple[str, tuple[str, ...]]:
    return one.verb, one.overrides


@dataclass(frozen=True)
class _Pair:
    """The answers of two jobs with the same seed and fold."""

    own: Answered
    best: Answered
    subset: str


def _pairs(one: Setting, best: Setting, sweep: Path) -> list[_Pair] | str:
    """A pair for each seed and fold that both settings have, or why they do not compare."""
    common = [repeat for repeat in one.repeats if repeat in best.repeats]
    if not common:
        return "no seed and fold in common with the best"
    pairs = []
    for repeat in common:
        rows = one.repeats[repeat], best.repeats[repeat]
        try:
            own, other = (_answered(row, sweep / row.folder) for row in rows)
        except (UserError, OSError) as error:
            return str(error).partition("\n")[0]
        subset, theirs = (row.score.subset if row.score else None for row in rows)
        if reason := "other patients" if subset != theirs else own.unlike(other):
            return reason
        pairs.append(_Pair(own, other, subset or ""))
    return pairs


def _answered(row: Row, folder: Path) -> Answered:
    """The answers that gave a job its score.

    Raises:
        UserError: it has left none, or others.
    """
    names = (DEV_PREDICTIONS_FILE, PREDICTIONS_FILE)
    file = next((folder / one for one in names if (folder / one).is_file()), None)
    if file is None:
        raise UserError(f"a job has left no {PREDICTIONS_FILE}")
    try:
        answered = _read(file, stamp(file), stamp(folder / CONFIG_FILE))
    except UserError as error:
        raise UserError(f"{row.folder}: {error.problems[0]}") from error
    if row.scored is None or abs(answered.score - row.scored) > _SAME:
        raise UserError(f"{row.folder}: {file.name} has another score than {METRICS_FILE}")
    return answered


@functools.lru_cache(maxsize=1024)
def _read(file: Path, *stamps: tuple[int, int]) -> Answered:
    """The answers in a file; they are kept, since the board is made anew whenever a job ends."""
    config = read_config(file.parent)
    nodes = config.get("task") or as_trained(config).get("task")  # a hub may be asked
    if nodes is None and (name := config.get("checkpoint")):
        raise UserError(f"checkpoint={name} has the tasks, and cannot be read from this folder")
    tasks = build_tasks(nodes, build=build_stored)
    return Answered.of(read_choices(file, tasks=tasks), tasks)
