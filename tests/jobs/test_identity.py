"""Which jobs are the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from spinevl.jobs.identity import identity

CONFIG: dict[str, Any] = {
    "seed": 0,
    "task": {"qd": {"name": "qd"}, "sl": {"name": "sl"}},
    "encoder": {"_target_": "a.B", "dim": 16},
    "trainer": {"max_epochs": 3, "num_workers": 0, "progress_bar": True, "packing": "tree"},
    "logger": None,
    "cache_dir": "~/.cache/spinevl",
    "output_dir": None,
    "trusted_targets": [],
    "feature_cache": {"enabled": True, "max_gb": 32.0},
}
DATA = {"cohort": "phantom", "inputs": {"labels": "0" * 64}}


def changed(place: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    *parents, name = place.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[name] = value
    return config


def test_an_identity_is_sixteen_hexadecimal_digits_and_the_same_each_time() -> None:
    one = identity(CONFIG, DATA)
    assert len(one) == 16
    assert int(one, 16) >= 0
    assert one == identity(copy.deepcopy(CONFIG), dict(DATA))
    assert one == identity(dict(reversed(CONFIG.items())), dict(reversed(DATA.items())))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("cache_dir", "/elsewhere"),
        ("output_dir", "/there"),
        ("logger", {"_target_": "x.Logger"}),
        ("trusted_targets", ["mine"]),
        ("feature_cache.enabled", False),
        ("trainer.progress_bar", False),
        ("trainer.num_workers", 4),
    ],
)
def test_where_and_how_fast_make_no_other_job(place: str, value: Any) -> None:
    assert identity(changed(place, value), DATA) == identity(CONFIG, DATA)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("seed", 1),
        ("encoder.dim", 32),
        ("trainer.max_epochs", 4),
        ("trainer.packing", "off"),
        ("task", {"qd": {"name": "qd"}}),
        ("new_key", None),
    ],
)
def test_what_decides_the_results_makes_another_job(place: str, value: Any) -> None:
    assert identity(changed(place, value), DATA) != identity(CONFIG, DATA)


def test_other_data_make_another_job() -> None:
    other = {**DATA, "inputs": {"labels": "1" * 64}}
    assert identity(CONFIG, other) != identity(CONFIG, DATA)
    assert identity(CONFIG, {**DATA, "skipped": ["p3"]}) != identity(CONFIG, DATA)


def test_the_config_is_left_as_it_was() -> None:
    before = copy.deepcopy(CONFIG)
    identity(CONFIG, DATA)
    assert before == CONFIG
