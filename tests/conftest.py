"""Fixtures that every test folder shares."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # tests beside each other: a core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The parts of the reference data. Where the folder is there, a part that is missing is a failure.
PARTS = (
    *("cervai", "realcase", "goldens/build", "goldens/data", "goldens/evaluate", "goldens/models"),
    *("goldens/recipe", "goldens/templates", "goldens/clip_mlp_qwen2", "goldens/clipfull_mlp_phi"),
    *("goldens/clip_mlp_qwen2_tied", "goldens/medmclip_spatial_qwen2"),
    *("goldens/siglip_mlp_llama3", "goldens/siglip_slices_attn_qwen2"),
)


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
