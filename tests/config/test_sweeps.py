"""The shipped sweeps: which jobs each makes, and that every one of them composes."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from spinevl.cli.help import options
from spinevl.config.compose import compose, register
from spinevl.config.conf_dir import CONF_DIR

JOBS = {
    "sweep_folds": 5,
    "sweep_lora": 5,
    "sweep_models": 27,
    "sweep_seeds": 5,
    "sweep_slices": 7,
    "sweep_slices_separate": 8,
}
SEARCHES = ("search_lora", "search_rates")


def values(experiment: str) -> dict[str, list[str]]:
    """What an experiment varies: key -> its values; of an interval its two ends."""
    register()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = hydra_compose("run", [f"experiment={experiment}"], return_hydra_config=True)
    params = OmegaConf.to_container(cfg.hydra.sweeper.params)
    assert isinstance(params, dict)
    found = {}
    for key, value in params.items():
        one = OverridesParser.create().parse_override(f"{key}={value}")
        assert one.is_sweep_override()
        if one.is_interval_sweep():
            found[str(key)] = [str(one.value().start), str(one.value().end)]
        else:
            found[str(key)] = list(one.sweep_string_iterator())
    return found


def test_all_of_them_are_known_here() -> None:
    shipped = [one for one in options("experiment") if one.startswith(("sweep_", "search_"))]
    assert shipped == sorted([*JOBS, *SEARCHES])


@pytest.mark.parametrize("experiment", JOBS)
def test_every_job_composes(experiment: str) -> None:
    varied = values(experiment)
    jobs = list(product(*varied.values()))
    assert len(jobs) == JOBS[experiment]
    if len(varied) > 1:  # each value once: keys are checked one by one
        longest = max(map(len, varied.values()))
        jobs = [tuple(v[i % len(v)] for v in varied.values()) for i in range(longest)]
    for job in jobs:
        words = [f"{key}={value}" for key, value in zip(varied, job, strict=True)]
        compose("run", [f"experiment={experiment}", *words])


@pytest.mark.parametrize("experiment", SEARCHES)
def test_the_ends_of_a_search_compose(experiment: str) -> None:
    varied = values(experiment)
    for end in (0, -1):
        words = [f"{key}={found[end]}" for key, found in varied.items()]
        compose("run", [f"experiment={experiment}", *words])


def test_slices_alone_in_pairs_and_together() -> None:
    assert values("sweep_slices") == {
        "sag_image": ["[5]", "[6]", "[7]", "[5,6]", "[5,7]", "[6,7]", "[5,6,7]"]
    }
    assert values("sweep_slices_separate")["sag_type"] == ["joint", "separate"]


def test_the_scale_of_lora_stays_the_same() -> None:
    for node in values("sweep_lora")["tuning.lora"]:
        r, alpha = re.findall(r"\d+", node)
        assert int(alpha) == 2 * int(r)
    lora = compose("run", ["experiment=sweep_lora", f"tuning.lora={node}"]).tuning.lora
    assert (lora.r, lora.alpha, lora.dropout) == (64, 128, 0.05)
