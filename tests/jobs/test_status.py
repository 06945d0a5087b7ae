"""``job.json``, as it was written and as somebody else wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spinevl.jobs.status import JOB_FILE, JobStatus, read_status, write_status

DONE = JobStatus(3, ("seed=1", "sag_image=[5,6]"), "done", None, 4.5)


def test_a_status_is_read_back(tmp_path: Path) -> None:
    write_status(tmp_path, DONE)
    assert read_status(tmp_path) == DONE


@pytest.mark.parametrize(
    "change",
    [{"number": "z"}, {"overrides": [1, {}]}, {"status": ["done"]}, {"seconds": "x"}, {"more": 1}],
)
def test_what_is_not_ours_is_passed_over(tmp_path: Path, change: dict[str, Any]) -> None:
    write_status(tmp_path, DONE)
    content = json.loads((tmp_path / JOB_FILE).read_text())
    (tmp_path / JOB_FILE).write_text(json.dumps({**content, **change}))
    assert read_status(tmp_path) is None
