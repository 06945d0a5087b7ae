"""Flags anywhere, overrides of some of a sweep's options, folders named by what varies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spinevl.cli.main import main
from spinevl.cli.words import flags_first, own_folders, sweep_words

EXCLUDE = "hydra.job.config.override_dirname.exclude_keys"


@pytest.mark.parametrize(
    ("words", "ordered"),
    [
        ("task=[qd] -m", "-m task=[qd]"),
        ("seed=1 --cfg job a=2 --resolve", "--cfg job --resolve seed=1 a=2"),
        ("--info seed=1", "--info=all seed=1"),
        ("seed=1 -i defaults", "--info=defaults seed=1"),
        ("a=1 --config-dir mine b=2", "--config-dir mine a=1 b=2"),
        ("a=1 --config-dir=mine -m b=2", "--config-dir=mine -m a=1 b=2"),
        ("~seed -m", "-m ~seed"),
        ("seed=-1", "seed=-1"),
        ("--cfg", "--cfg"),
        ("", ""),
    ],
)
def test_flags_stand_before_overrides(words: str, ordered: str) -> None:
    assert flags_first(words.split()) == ordered.split()


def test_the_users_folders_are_found_wherever_they_stand() -> None:
    assert own_folders(["-cd", "a", "x=1", "--config-dir=b"]) == [Path("a"), Path("b")]


@pytest.mark.parametrize(
    ("words", "excluded"),
    [
        (["seed=0,1", "data=phantom"], "['data']"),
        (["++seed=0,1", "data.n_train=8", "task=[qd]"], "['data.n_train','task']"),
        (["optim.lr.llm=choice(1e-3,1e-4)", "~experiment"], "['experiment']"),
        (["seed=range(0,3)", "encoder@encoder3d=medmclip"], "['encoder']"),
    ],
)
def test_a_sweeps_folders_are_named_by_what_varies(words: list[str], excluded: str) -> None:
    found = sweep_words("train", ["-m", *words])
    assert found.words == ("-m", *words, f"{EXCLUDE}={excluded}")


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "seed=0,1"],
        ["data=phantom", "task=[qd,sl]"],
        ["-m", "seed=0,1", "a=1", f"{EXCLUDE}=[x]"],
        ["-m", "seed=0,1", "data=[x"],
        ["--config-dir", "a=b", "seed=1"],
    ],
)
def test_other_words_stay_as_they_are(words: list[str]) -> None:
    assert sweep_words("train", words).words == tuple(words)


@pytest.mark.parametrize(
    ("words", "lacking"),
    [
        (["encoder=tiny,clip", "encoder.path=X"], {"encoder.path": ("tiny",)}),
        (["encoder=tiny,clip", "++encoder.path=X"], {"encoder.path": ("tiny",)}),
        (
            ["split=kfold,head", "split.n_train=5", "split.n_folds=3"],
            {"split.n_train": ("kfold",), "split.n_folds": ("head",)},
        ),
        (
            ["encoder@encoder3d=medmclip,tiny", "encoder3d.select_layer=-2"],
            {"encoder3d.select_layer": ("tiny",)},
        ),
        (["encoder=tiny,clip", "encoder.pth=X"], {}),  # no option has it: refused by name
        (["encoder=dinov2,clip", "encoder.path=X"], {}),  # all have it
        (["encoder=tiny", "encoder.path=X"], {}),
        (["encoder=tiny,tnyi", "encoder.path=X"], {}),
    ],
)
def test_a_key_of_some_options_is_left_out_of_the_others(
    words: list[str], lacking: dict[str, tuple[str, ...]]
) -> None:
    found = sweep_words("train", ["-m", *words])
    assert found.lacking == lacking
    for key in lacking:
        assert any(word.startswith(f"++{key}=") for word in found.words)


def test_such_a_sweep_runs_and_one_without_the_key_anywhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = [f"data.n_{side}=4" for side in ("train", "dev", "test")]
    words = ["build", *small, "task=[qd]", "split=kfold,head", "cache_dir=cache"]
    assert main([*words, "split.n_folds=2", "-m", "hydra.sweep.dir=s"]) == 0
    assert sorted(one.name for one in (tmp_path / "s").glob("[0-9]*")) == [
        "0-split-kfold", "1-split-head"
    ]  # fmt: skip
    written = {}
    for option in ("0-split-kfold", "1-split-head"):
        manifest = json.loads((tmp_path / "s" / option / "manifest.json").read_text())
        written[option] = manifest["config"]["split"]
    assert written["0-split-kfold"]["n_folds"] == 2
    assert "n_folds" not in written["1-split-head"]
    assert "split=head has no key split.n_folds" in capfd.readouterr().err
    assert main([*words, "split.n_fold=2", "-m", "hydra.sweep.dir=s"]) == 1
    err = capfd.readouterr().err
    assert "unknown key 'split.n_fold'" in err
    assert "Traceback" not in err


def test_an_empty_word_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", ""]) == 1  # of "$EXTRA" in a script
    assert capsys.readouterr().err.startswith("spinevl: ")


def test_keys_of_the_users_own_option_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my conf/data").mkdir(parents=True)
    Path("my conf/data/scans.yaml").write_text("defaults: [cervai]\nside_px: 160\n")
    words = ["--config-dir", "my conf", "data=scans", "data.sagital=x"]
    assert main(["doctor", *words]) == 1
    assert "did you mean data.sagittal?" in capsys.readouterr().err
