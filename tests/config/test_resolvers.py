"""The learning rate of a part follows from what of it is trained."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from spinevl.cli.main import main
from spinevl.config.compose import compose


def rates(*overrides: str, verb: str = "train") -> tuple[float, float, float]:
    lr = compose(verb, overrides).optim.lr
    return lr.encoder, lr.connector, lr.llm


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], (1e-3, 1e-3, 1e-3)),
        (["experiment=demo"], (1e-3, 1e-3, 1e-3)),
        (["experiment=demo_llm"], (1e-3, 1e-3, 5e-4)),
        (["llm=qwen2_5_0_5b"], (1e-3, 1e-3, 2e-5)),
        (["llm=qwen2_5_0_5b", "llm.pretrained=false"], (1e-3, 1e-3, 1e-3)),
        (["llm=smollm2_135m"], (1e-3, 1e-3, 2e-5)),
        (["encoder=clip", "llm=qwen2_5_0_5b", "tuning=lora"], (0, 1e-3, 2e-4)),
        (["encoder=clip", "tuning=lora", "tuning.encoder=full"], (2e-5, 1e-3, 2e-4)),
        (["encoder=clip", "tuning.encoder=lora"], (2e-4, 1e-3, 1e-3)),
        (["tuning=connector"], (0, 1e-3, 0)),
        (["checkpoint=somewhere"], (2e-5, 2e-5, 2e-5)),
        (["checkpoint=somewhere", "tuning=lora"], (0, 2e-5, 2e-4)),
        (["encoder@encoder3d=medmclip"], (2e-5, 1e-3, 1e-3)),
        (["encoder@encoder3d=medmclip", "encoder3d.pretrained=false"], (1e-3, 1e-3, 1e-3)),
        (["tuning=lora", "optim.lr.llm=5e-4"], (0, 1e-3, 5e-4)),
        (["experiment=medmvl_2d_specialise", "checkpoint=c"], (0, 2e-4, 2e-4)),
        (["experiment=medmvl_2d_finetune", "checkpoint=c"], (2e-5, 2e-5, 2e-5)),
    ],
)
def test_the_default_learning_rates(
    overrides: list[str], expected: tuple[float, float, float]
) -> None:
    assert rates(*overrides) == expected


def test_an_encoder_of_the_users_own_is_pretrained_where_it_names_weights() -> None:
    cfg = compose("train", ["++encoder.path=somewhere"], complete=False)
    assert cfg.optim.lr.encoder == 2e-5


@pytest.mark.parametrize("verb", ["train", "run", "doctor"])
def test_the_resolved_config_shows_the_rates(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "llm=qwen2_5_0_5b", "--cfg", "job", "--resolve"]) == 0
    shown = OmegaConf.create(capsys.readouterr().out)
    assert dict(shown.optim.lr) == {
        "encoder": 1e-3,
        "connector": 1e-3,
        "llm": 2e-5,
        "heads": 1e-3,
    }
