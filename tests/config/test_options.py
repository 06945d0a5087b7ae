"""What composes, what is refused and how, and what may be built."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from spinevl.build.build import build
from spinevl.cli.config_errors import explain
from spinevl.cli.verbs import VERBS
from spinevl.config.compose import check, compose
from spinevl.config.conf_dir import CONF_DIR
from spinevl.config.job_folder import job_folder
from spinevl.config.plain import plain
from spinevl.config.tasks import official_tasks
from spinevl.data.study_spec import StudySpec
from spinevl.schema.errors import UserError
from spinevl.schema.task import Task


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_composes_with_its_defaults(verb: str) -> None:
    cfg = compose(verb)
    assert list(cfg.trusted_targets) == []
    if "task" in cfg and verb not in ("predict", "report"):
        assert list(cfg.task) == ["qd", "sl", "zjppt", "zyzg"]


def test_tasks_keep_the_order_asked_for() -> None:
    tasks = plain(compose("run", ["task=[zyzg,positioning,qd]"]))["task"]
    assert list(tasks) == ["zyzg", "positioning", "qd"]
    assert build(tasks["zyzg"], Task) == official_tasks()["zyzg"]


def test_predict_takes_groups_that_default_to_the_checkpoints() -> None:
    default = compose("predict")
    assert (default.task, default.prompts, default.split, default.sag_image) == (None,) * 4
    cfg = compose("predict", ["task=[qd]", "prompts=zh", "split=head", "sag_image=[5,6]"])
    assert list(cfg.task) == ["qd"]
    assert cfg.prompts.path is None
    assert list(cfg.sag_image) == [5, 6]


def test_upstreams_spelling_of_separate_is_an_alias() -> None:
    assert compose("build", ["sag_type=seperate"]).sag_type == "separate"


def cache_of(verb: str, *overrides: str) -> Path:
    return StudySpec(cache_dir=compose(verb, list(overrides)).cache_dir).cache_folder()


def test_cache_dir_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPINEVL_CACHE_DIR", str(tmp_path))
    assert cache_of("run") == tmp_path
    monkeypatch.delenv("SPINEVL_CACHE_DIR")
    assert cache_of("run") == Path.home() / ".cache" / "spinevl"
    assert cache_of("run", "cache_dir='~/mine'") == Path.home() / "mine"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("sag_imag=[5]", "unknown key 'sag_imag'; did you mean sag_image? valid: trusted_targets,"),
        ("data.n_trian=5", "unknown key 'data.n_trian'; did you mean data.n_train? valid: data.n"),
        (
            "task.qd.axial=true",
            "task.qd.axial is not in the YAML file of this option: add it",
        ),
        ("task.qd.weihgt=1", "unknown key 'task.qd.weihgt'; did you mean task.qd.weight? valid: "),
        ("task.qdd.weight=1", "unknown key 'task.qdd.weight'; did you mean task.qd? valid: "),
        ("encoder.activation=x", "unknown key 'encoder.activation'; did you mean "),
        ("+foo=1", "unknown key 'foo'; valid: "),
        ("+trainer.foo=1", "unknown key 'trainer.foo'; valid: accelerator,"),
        (
            "predict.repetition_penalty=0",
            "predict.repetition_penalty=0.0: expected a finite number, ",
        ),
        (
            "predict.max_new_tokens=0",
            "predict.max_new_tokens=0: expected a whole number or null, 1 or more",
        ),
        ("encoder=tniy", "encoder=tniy: no such option; did you mean tiny? valid: clip, dinov2"),
        ("task=[qdd]", "task=qdd: no such option; did you mean qd? valid: positioning, qd, sl, "),
        ("task=[qd,qd]", "task names qd more than once"),
        ("task=[]", "task=[]: name at least one task of "),
        ("logger.project=x", "logger.project is called logger.wandb.project now: write "),
        ("+logger.tags=[x]", "logger.tags is called logger.wandb.tags now: write "),
        (
            "logger.wandb.project=x",
            "logger.wandb.project=x: logger.wandb is null; choose it: logger=",
        ),
        ("task=null", "task=null: expected an option, task=positioning|qd|sl"),
        ("seed=a", "seed=a: expected a whole number, 0 to 4294967295"),
        ("sag_type=jont", "sag_type=jont: expected joint, separate"),
        ("sag_image=6", "sag_image=6: expected a list: 'sag_image=[6]'"),
        ("sag_image=[6,6]", "sag_image names 6 more than once"),
        ("sag_image=[]", "sag_image=[]: name at least one"),
        ("trainer.max_epochs=x", "trainer.max_epochs=x: expected a whole number, 1 or more"),
        ("split=files", "split.train must be given: split.train=VALUE"),
        ("seed=-1", "seed=-1: expected a whole number, 0 to 4294967295"),
        ("suffix=a/b", "suffix=a/b: expected letters, digits, . _ and -"),
        ("trusted_targets=[a-b]", "trusted_targets: 'a-b' is no package name"),
        ("predict.batch_size=0", "predict.batch_size=0: expected a whole number, 1 or more"),
        (
            "predict.compile=cuda_graphs",
            "predict.attention=blocks: expected flex with predict.compile=cuda_graphs",
        ),
        ("task=[qd", "cannot read 'task=[qd': "),
        ("experiment=nope", "experiment=nope: no such option; valid: "),
    ],
)
def test_mistakes_are_refused_in_one_line(override: str, line: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011  Hydra's, OmegaConf's or ours
        compose("run", [override])
    lines = explain(caught.value, verb="run", arguments=[override])
    assert lines[0].startswith(line)
    assert "\n" not in "".join(lines)


def test_a_config_without_a_schema_is_checked_for_interpolations_only() -> None:
    check(OmegaConf.create({"anything": 1}))
    with pytest.raises(UserError, match=r"anything=.*'no.key' not found"):
        check(OmegaConf.create({"anything": "${no.key}"}))


def test_job_folders_are_plain_and_short() -> None:
    assert job_folder(3, "sag_image=[5,6,7],seed=0") == "3-sag_image-5-6-7-seed-0"
    assert job_folder(0, "") == "0"
    odd = job_folder(1, "data.labels=/a b/ü.json")
    assert odd.startswith("1-data.labels-a-b-.json-")
    assert len(odd.rsplit("-", 1)[1]) == 8
    long = job_folder(12, ",".join(f"optim.lr.part{i}=0.001" for i in range(20)))
    assert len(long) <= 100 + 9
    assert long != job_folder(12, ",".join(f"optim.lr.part{i}=0.002" for i in range(20)))
    for name in (odd, long):
        assert all(c.isascii() and (c.isalnum() or c in "._-") for c in name)


def test_a_users_folder_adds_options(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "mine.yaml").write_text("_target_: mypkg.Mine\ndim: 3\n")
    assert compose("run", ["encoder=mine"], config_dir=tmp_path).encoder.dim == 3
    with pytest.raises(UserError, match="there is no such folder"):
        compose("run", config_dir=tmp_path / "nowhere")


def test_the_config_folder_is_absolute() -> None:
    assert CONF_DIR.is_absolute()
    assert (CONF_DIR / "run.yaml").is_file()


def test_parts_beside_a_checkpoint_are_refused() -> None:
    compose("train", ["checkpoint=somewhere", "tuning=lora", "llm.conversation=medmvl"])
    for override in ("encoder=siglip", "llm.width=4", "encoder@encoder3d=medmclip"):
        with pytest.raises(UserError, match="the parts come from checkpoint=somewhere; drop one"):
            compose("train", ["checkpoint=somewhere", override])
