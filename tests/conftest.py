"""Fixtures that every test folder shares."""

from __future__ import annotations

import gc
import json
import os
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# Tests run beside each other, and their models are too small for several cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The parts of the reference data. Where the folder is there, a part that is missing is a failure.
PARTS = (
    *("cervai", "realcase", "goldens/build", "goldens/data", "goldens/evaluate", "goldens/models"),
    *("goldens/recipe", "goldens/templates", "goldens/clip_mlp_qwen2", "goldens/clipfull_mlp_phi"),
    *("goldens/clip_mlp_qwen2_tied", "goldens/medmclip_spatial_qwen2"),
    *("goldens/siglip_mlp_llama3", "goldens/siglip_slices_attn_qwen2"),
)

# Processes that share the tests begin with the files that take longest, and so end together.
LONGEST = (
    *("test_run.py", "test_model_zoo.py", "test_readme.py", "test_resume.py", "test_fuzz.py"),
    *("test_check.py", "test_estimator.py", "test_settle.py", "test_conf_files.py"),
    *("test_own_parts.py", "test_bad_values.py", "test_train.py", "test_batch_job.py"),
    *("test_sweep.py", "test_optuna_study.py", "test_words.py", "test_worker.py", "test_owner.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of long files first."""
    place = {name: k for k, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


def pytest_collection_finish() -> None:
    """Spare the garbage collector the modules, which stay: it would walk through them each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data: ``SPINEVL_REFERENCE_DATA``, or the one beside the repository.

    Tests that need it are skipped where nobody has it, and fail where it was named or is there and
    lacks a part.
    """
    named = os.environ.get("SPINEVL_REFERENCE_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir() and not named:
        pytest.skip(f"the reference data folder {folder.name}/ is not beside the repository")
    missing = [part for part in PARTS if not any((folder / part).glob("*"))]
    if missing:
        pytest.fail(f"the reference data in {folder} lack {', '.join(missing)}")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _phantoms_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Draw a phantom once: patients 0, 1, 2... of most cohorts are the same. Each gets copies."""
    from spinevl.sources.phantom import store

    draw = store.render_case
    library = tmp_path_factory.mktemp("phantoms")
    drawn: dict[str, Any] = {}

    def render_case(case: Any, folder: Path, seed: int) -> Any:
        name = f"{case} {seed}"
        if name not in drawn:
            one = library / str(len(drawn))
            drawn[name] = draw(case, one, seed), one
        phantom, pictures = drawn[name]
        shutil.copytree(pictures, folder, dirs_exist_ok=True)
        return phantom

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "render_case", render_case)
        yield


@pytest.fixture(autouse=True)
def _own_modules_of_one_test() -> Iterator[None]:
    """What a job within the process of the tests serves of a user's folders ends with its test."""
    yield
    user_modules = sys.modules.get("spinevl.build.user_modules")  # most tests need no import of it
    if user_modules is not None:
        user_modules.serve(user_modules.Trust(), [])


@pytest.fixture(scope="session")
def tiny_parts() -> dict[str, Any]:
    """The nodes of the smallest model, which takes milliseconds to assemble."""
    lora = {"r": 2, "alpha": 2, "dropout": 0.0, "targets": None, "rslora": False, "dora": False}
    return {
        "encoder": {"_target_": "spinevl.models.encoder.tiny.TinyEncoder", "widths": [8, 8, 8]},
        "connector": {"_target_": "spinevl.models.connector.mlp.MLPConnector", "_partial_": True},
        "llm": {"_target_": "spinevl.models.llm.TinyLLM", "width": 16, "layers": 1, "heads": 2},
        "tuning": {"encoder": "frozen", "connector": "full", "llm": "frozen", "lora": lora},
    }


@dataclass
class WandbRun:
    """What the file of an offline run of W&B holds."""

    file: Path
    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    exit_code: int | None = None

    def values(self, key: str) -> list[Any]:
        """What was logged under a key, in order."""
        return [row[key] for row in self.history if key in row]

    def table(self, key: str) -> dict[str, Any]:
        """The last table that was logged under a key: its ``columns`` and ``data``."""
        told = self.values(key)[-1]
        content: dict[str, Any] = json.loads(
            (self.file.parent / "files" / told["path"]).read_text()
        )
        return content


@pytest.fixture
def read_run() -> Callable[[Path], WandbRun]:
    """Reads the one run of W&B that was logged offline below a folder."""
    return _read_run


def _read_run(folder: Path) -> WandbRun:
    (file,) = folder.rglob("offline-run-*/run-*.wandb")
    end = time.monotonic() + 20
    while (run := _parsed(file)).exit_code is None and time.monotonic() < end:
        time.sleep(0.1)  # W&B's process writes the last of it after the run has ended
    return run


def _parsed(file: Path) -> WandbRun:
    from wandb.proto.wandb_internal_pb2 import Record

    run = WandbRun(file)
    for content in _log_records(file.read_bytes()):
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        told = getattr(record, kind)
        if kind == "run":
            run.id, run.name, run.group = told.run_id, told.display_name, told.run_group
            run.job_type, run.tags = told.job_type, list(told.tags)
            told, kind = told.config, "config"
        if kind == "history":
            run.history.append(_items(told.item))
        elif kind in ("config", "summary"):
            getattr(run, kind).update(_items(told.update))
        elif kind == "artifact":
            run.artifacts.append(told)
        elif kind == "exit":
            run.exit_code = told.exit_code
    for row in run.history:
        for key in [key for key in row if key.startswith("_")]:
            del row[key]
    return run


def _items(items: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for one in items:
        *parents, name = one.nested_key or [one.key]
        at = values
        for parent in parents:
            at = at.setdefault(parent, {})
        at[name] = json.loads(one.value_json)
    return values


def _log_records(content: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log (log_format.md) behind a header of 7 bytes."""
    assert content[:4] == b":W&B"
    at, parts = 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:  # a block's trailer
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            yield parts
            parts = b""
