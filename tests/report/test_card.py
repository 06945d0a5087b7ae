"""A model card: what commands and configs say stays a value, in YAML and in Markdown."""

from __future__ import annotations

import pytest
import yaml

from spinevl.report.card import card

BAD = "x: [\n---\n# <b>|`"
PARTS = {
    "encoder": {"_target_": f"a.{BAD}", "path": BAD},
    "llm": {"_target_": "a.B", "path": "org/name"},
    "tuning": {"encoder": BAD, "llm": "full"},
}


@pytest.mark.parametrize("license_id", ["apache-2.0", "cc-by-4.0", BAD, "1.0", ""])
def test_text_stays_text(license_id: str) -> None:
    study = {"cohort": BAD, "fingerprint": {"inputs": {"labels": BAD}}}
    config = {"parts": PARTS, "study": study, "parent": BAD}
    page = card(config, tasks={}, license_id=license_id, score=None, training=None, form="hf")
    head, _, body = page.removeprefix("---\n").partition("\n---\n")
    front = yaml.safe_load(head)
    assert front["license"] == license_id
    assert front["base_model"] == ["org/name"]
    assert "<b>" not in body
    titles = [line for line in body.splitlines() if line.startswith("#")]
    assert len(titles) == 5
