"""Which jobs are the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from spinevl.jobs.identity import identity

CONFIG: dict[str, Any] = {
    "seed": 0,
    "sag_image": [5, 6],
    "optim": {"lr": {"llm": 1e-3}},
    "trainer": {"max_epochs": 3, "num_workers": 0, "progress_bar": True},
    "cache_dir": "/a",
    "logger": {"kind": "csv"},
}
DATA = {"inputs": {"labels": "0" * 64}, "n_labelled": 4}


def changed(path: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    *parents, last = path.split(".")
    node = config
    for name in parents:
        node = node[name]
    node[last] = value
    return config


def test_it_does_not_depend_on_the_order_of_keys() -> None:
    turned = dict(reversed(CONFIG.items()))
    assert identity(turned, DATA) == identity(CONFIG, DATA)
    assert len(identity(CONFIG, DATA)) == 16


@pytest.mark.parametrize(
    ("path", "value"),
    [("seed", 1), ("sag_image", [6, 5]), ("optim.lr.llm", 2e-3), ("trainer.max_epochs", 4)],
)
def test_what_changes_a_result_makes_another_job(path: str, value: Any) -> None:
    assert identity(changed(path, value), DATA) != identity(CONFIG, DATA)


@pytest.mark.parametrize(
    ("path", "value"),
    [("cache_dir", "/b"), ("logger.kind", "wandb"), ("trainer.num_workers", 4)],
)
def test_where_and_how_fast_does_not(path: str, value: Any) -> None:
    assert identity(changed(path, value), DATA) == identity(CONFIG, DATA)


def test_other_data_make_another_job() -> None:
    other = {**DATA, "inputs": {"labels": "1" * 64}}
    assert identity(CONFIG, other) != identity(CONFIG, DATA)
