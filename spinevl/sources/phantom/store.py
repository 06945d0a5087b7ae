"""A rendered cohort on disk, in the CervAI layout: made once, whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from filelock import FileLock

from spinevl.io.children import end_with_parent
from spinevl.io.cores import available_cores
from spinevl.io.folders import recovered, whole_folder
from spinevl.schema.box import Box
from spinevl.sources.labels import VERTEBRAE
from spinevl.sources.phantom.labels import GRADED
from spinevl.sources.phantom.render import Case, Phantom, render_case

log = logging.getLogger(__name__)

NOTICE = """\
Rendered phantoms, made by spinevl: no clinical evidence. No picture here is of a person.

images/train, labels.json, boxes.json               patients to train on and to choose by
images/test, test_truth.json, test_boxes.json       test patients with their truth
test_template.json                                  their ids in the submission format
latents.json                                        the geometry behind the pictures; training
                                                    never opens it
spec.json                                           what this folder was made from
files.json                                          size and checksum of every other file
"""
_FILES = "files.json"  # the size and the checksum of every other file
_LOG_EVERY_S = 5.0
_CASES_A_WORKER = 40  # starting a process takes as long as rendering some
_CHUNK = 8  # cases that a process is given at once


def rendered_cohort(
    cases: Sequence[Case], folder: Path, *, seed: int, spec: Mapping[str, Any]
) -> Path:
    """``folder`` with the cohort in it; rendered beside and put there where it is not there yet, or
    is damaged.

    Jobs that ask for one cohort at once wait for the first of them.
    """
    if _is_intact(recovered(folder)):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # beside the folder of cohorts, which holds nothing but cohorts
    lock = folder.parent.parent / f".phantom-{folder.name}.lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(lock))
        except OSError:  # a file system without locks: two jobs then both render, and one wins
            log.debug("no lock on %s", lock)
        if _is_intact(folder, log.warning):
            return folder
        with whole_folder(folder) as beside:
            phantoms = dict(_rendered(cases, beside, seed))
            _write_lists(beside, cases, phantoms)
            (beside / "README.txt").write_text(NOTICE, encoding="utf-8")
            _write_json(beside / "spec.json", spec)
            _write_json(beside / _FILES, {name: _stamp(beside / name) for name in _names(beside)})
    return folder


def _is_intact(folder: Path, say: Callable[[str], object] = log.debug) -> bool:
    """Whether every file of a cohort is as it was rendered; ``say`` is told what is not."""
    if not folder.is_dir():
        return False
    try:
        stamps = json.loads((folder / _FILES).read_bytes())
        broken = [name for name, stamp in stamps.items() if stamp != _stamp(folder / name)]
    except (OSError, ValueError, AttributeError, RecursionError):
        broken = [_FILES]
    if broken:
        say(
            f"{folder}: {len(broken)} files of these phantoms are damaged or missing (first "
            f"{broken[0]}); they are rendered again"
        )
    return not broken


def _names(folder: Path) -> list[str]:
    return [str(one.relative_to(folder)) for one in sorted(folder.rglob("*")) if one.is_file()]


def _stamp(file: Path) -> list[int] | None:
    """Size and checksum; None where the file cannot be read."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    return [len(content), zlib.crc32(content)]


def _rendered(
    cases: Sequence[Case], folder: Path, seed: int
) -> Iterator[tuple[tuple[str, str], Phantom]]:
    """Render, and say how far it is: ((side, id), phantom) in the order of ``cases``."""
    started = said = time.monotonic()
    for done, phantom in enumerate(_phantoms(cases, folder, seed), start=1):
        case = cases[done - 1]
        yield (case.side, case.id), phantom
        now = time.monotonic()
        if now - said >= _LOG_EVERY_S and done < len(cases):
            left = (now - started) / done * (len(cases) - done)
            log.info("rendered %d of %d phantoms, about %.0f s left", done, len(cases), left)
            said = now


def _phantoms(cases: Sequence[Case], folder: Path, seed: int) -> Iterator[Phantom]:
    """Render on every core; in new processes, since forking one that runs torch can hang."""
    workers = min(available_cores(), 16, 1 + len(cases) // _CASES_A_WORKER)
    done = 0
    if workers > 1:
        n = len(cases)
        try:
            with ProcessPoolExecutor(
                workers,
                mp_context=get_context("spawn"),
                initializer=end_with_parent,
                initargs=(os.getpid(),),
            ) as pool:
                chunks = [cases[at : at + _CHUNK] for at in range(0, n, _CHUNK)]
                waiting = [pool.submit(_render, chunk, folder, seed) for chunk in chunks]
                try:
                    for one in waiting:
                        for phantom in one.result():
                            yield phantom
                            done += 1
                except BaseException:
                    # by the pool itself: where a signal has ended the processes too, it would
                    # print a stack about each that somebody else has cancelled, as map does
                    pool.shutdown(cancel_futures=True)
                    raise
        except BrokenProcessPool:  # e.g. a script without a main guard, or one read from stdin
            log.warning("rendering processes could not be started or died; rendering on one core")
    for case in cases[done:]:
        yield render_case(case, folder, seed)


def _render(cases: Sequence[Case], folder: Path, seed: int) -> list[Phantom]:
    return [render_case(case, folder, seed) for case in cases]


def _write_lists(
    folder: Path, cases: Sequence[Case], phantoms: Mapping[tuple[str, str], Phantom]
) -> None:
    """The label, box and template files in the challenge's formats, and the latents."""
    latents = {}
    files = {"train": ("labels", "boxes"), "test": ("test_truth", "test_boxes")}
    for side, (label_file, box_file) in files.items():
        of_side = {case.id: phantoms[side, case.id] for case in cases if case.side == side}
        labels, boxes = [], []
        for identity, one in of_side.items():
            labels.append({"id": identity} | {name: one.labels[name] for name in GRADED})
            texts = {name: _box_texts(one.boxes[name]) for name in VERTEBRAE}
            boxes.append({"id": identity} | texts)
        _write_json(folder / f"{label_file}.json", labels)
        _write_json(folder / f"{box_file}.json", boxes)
        latents[side] = {identity: one.latents() for identity, one in of_side.items()}
    zeros = {"qd": 0, "sl": 0, "zjppt": [0] * 5, "zyzg": [0] * 11}
    _write_json(folder / "test_template.json", [{"id": one, **zeros} for one in latents["test"]])
    _write_json(folder / "latents.json", latents)


def _box_texts(boxes: Sequence[Box]) -> list[str]:
    return [f"({box.x1},{box.y1})({box.x2},{box.y2})" for box in boxes]


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
