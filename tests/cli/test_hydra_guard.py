"""What Hydra itself may build, and that it holds in jobs, sweeps and workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate

from spinevl.cli.hydra_guard import check_environment, check_logging, check_node, install
from spinevl.cli.main import main
from spinevl.schema.errors import UserError

LEADERBOARD = "spinevl.cli.callbacks.Leaderboard"

install()


@pytest.mark.parametrize(
    "target",
    [
        LEADERBOARD,
        "hydra.experimental.callbacks.LogJobReturnCallback",
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    ],
)
def test_its_own_and_ours_are_built(target: str) -> None:
    check_node(target, {}, where="hydra.callbacks.x")


def test_samplers_are_built_for_a_sweeper_only() -> None:
    check_node("optuna.samplers.TPESampler", {}, where="hydra.sweeper.sampler")
    for where in ("hydra.callbacks.x", "hydra.launcher"):
        with pytest.raises(UserError):
            check_node("optuna.samplers.TPESampler", {}, where=where)
    with pytest.raises(UserError):
        check_node("optuna.samplers._base.os.system", {}, where="hydra.sweeper.sampler")


@pytest.mark.parametrize(
    "target",
    [
        "posix.system",
        "transformers.AutoConfig.from_pretrained",
        "spinevl.cli.callbacks.write_leaderboard",
        "spinevl.models.encoder.tiny.TinyEncoder",
        "hydra.utils.get_method",
        "hydra_plugins.evil.Launcher",
        "hydra._internal.core_plugins.bash_completion.BashCompletion",
        None,
        3,
    ],
)
def test_anything_else_is_refused(target: Any) -> None:
    for where in ("hydra.callbacks.x", "hydra.launcher", "hydra.sweeper"):
        with pytest.raises(UserError, match=f"^{where}: "):
            check_node(target, {}, where=where)


def test_a_node_within_a_node_is_refused_too() -> None:
    inner = {"_target_": "pathlib.Path", "_args_": ["x"]}
    with pytest.raises(UserError, match=r"pathlib.Path is not built"):
        instantiate({"_target_": LEADERBOARD, "x": [inner]})
    with pytest.raises(UserError, match=r"pathlib.Path is not built"):
        instantiate([{"a": {"b": inner}}])


@pytest.mark.parametrize("key", ["setup", "custom_search_space"])
def test_a_launcher_takes_no_commands_from_a_config(key: str) -> None:
    launcher = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
    with pytest.raises(UserError, match=rf"^hydra.launcher.{key}: "):
        check_node(launcher, {key: ["touch x"]}, where="hydra.launcher")


FILE = {"class": "logging.FileHandler", "filename": "a/b.log"}
OUT = Path("a")
CONSOLE = {"class": "logging.StreamHandler", "stream": "ext://sys.stderr"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"handlers": {"x": {"class": "evil.Handler"}}}, r"handlers.x: class=evil.Handler"),
        ({"handlers": {"x": {"class": "logging.handlers.SocketHandler"}}}, "handlers.x: class="),
        ({"handlers": {"x": {**FILE, "()": "evil.make"}}}, r"handlers.x: \(\)=evil.make"),
        ({"handlers": {"x": {"()": "logging.FileHandler"}}}, r"handlers.x: \(\)="),
        (
            {"handlers": {"x": {**FILE, "filename": "~/.bashrc"}}},
            "a name that ends in .log",
        ),
        ({"handlers": {"x": {**FILE, "filename": "a/../b.log"}}}, "in the job's folder"),
        ({"handlers": {"x": {**FILE, "filename": "/var/log/x.log"}}}, "in the job's folder"),
        ({"handlers": {"x": {**FILE, ".": {"baseFilename": "x"}}}}, r"the key '\.' is not"),
        ({"handlers": {"x": {**CONSOLE, "stream": "ext://evil.x"}}}, "x.stream: 'ext://evil.x'"),
        ({"handlers": {"x": {**CONSOLE, "stream": "cfg://root"}}}, "x.stream: 'cfg://root'"),
        ({"handlers": {"x": {**FILE, "deep": [{"a": "ext://evil"}]}}}, r"x.deep\[0\].a: 'ext:"),
        ({"handlers": {"x": "ext://evil"}}, "handlers.x"),
        ({"formatters": {"x": {"()": "evil.make"}}}, r"formatters.x: \(\)=evil.make"),
        ({"formatters": {"x": {"class": "evil.F"}}}, "formatters.x: class=evil.F"),
        ({"filters": {"x": {"()": "logging.Filter"}}}, r"filters.x: \(\)=.* leave it out"),
        ({"loggers": {"x": {"level": "ext://evil"}}}, "loggers.x.level"),
    ],
)
def test_logging_does_no_more_than_write_text(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_logging({"version": 1, "root": {"handlers": []}, **change}, out=OUT)


def test_plain_logging_is_fine() -> None:
    formatters = {"a": {"format": "%(message)s"}, "b": {"()": "colorlog.ColoredFormatter"}}
    config = {
        "handlers": {"file": FILE, "console": CONSOLE},
        "formatters": formatters,
        "filters": None,
    }
    check_logging(config, out=OUT)
    with pytest.raises(UserError, match="in the job's folder"):
        check_logging(config, out=None)  # before a job has its folder


def test_variables_are_set_by_the_command_line_alone() -> None:
    check_environment({"A": "1"}, ("+hydra.job.env_set.A=1",))
    with pytest.raises(UserError, match="LD_PRELOAD comes from a config file"):
        check_environment({"LD_PRELOAD": "x"}, ("seed=1", "+hydra.job.env_set.A=1"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with label files and a folder of configs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c/task").mkdir(parents=True)
    record = {"id": "1", "qd": 0, "sl": 0, "zjppt": [0] * 5, "zyzg": [0] * 11}
    (tmp_path / "a.json").write_text(json.dumps([record]))
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')\n")
    return tmp_path


COMMAND = ["evaluate", "--config-dir", "c", "task=[x]", "labels=a.json", "answers=a.json"]
COMMAND += ["hydra.run.dir=o", "hydra.sweep.dir=m"]
JOBLIB = ["missing=error,upstream", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "-m"]
HYDRA = {
    "callback": ("callbacks: {x: {_target_: evil_module.A}}", "hydra.callbacks.x: evil_module.A"),
    "interpolated callback": (
        "callbacks: ${task}",
        "Task is not built",
    ),
    "interpolated target": ("callbacks: {x: {_target_: '${labels}'}}", "a.json is not built"),
    "handler": (
        "job_logging: {handlers: {console: {class: evil_module.A}}}",
        "handlers.console: class=evil_module.A",
    ),
    "late handler": (
        "job_logging: {handlers: {console: {stream: "
        "'${hydra.job.config.override_dirname.kv_sep}'}}}\n  "
        "job: {config: {override_dirname: {kv_sep: 'ext://evil_module.x'}}}",
        "handlers.console.stream: 'ext://evil_module.x'",
    ),
    "variable": ("job: {env_set: {PYTHONPATH: /evil}}", "PYTHONPATH comes from a config file"),
    "words": (
        "overrides: {task: ['trusted_targets=[evil_module]']}\ntrusted_targets: [evil_module]",
        "trusted_targets: evil_module comes from a config file",
    ),
}
SWEEP = {
    "launcher": ("launcher: {_target_: evil_module.A}", "evil_module"),
    "sweeper": ("sweeper: {_target_: evil_module.A}", "evil_module"),
    "hydra's logging": (
        "hydra_logging: {formatters: {plain: {(): evil_module.make}}}",
        "formatters.plain: ()=evil_module.make",
    ),
    "parameters of a sweep": (
        "sweeper: {params: {trusted_targets: '[evil_module]'}}",
        "trusted_targets: evil_module comes from a config file",
    ),
}


def run(here: Path, text: str, capfd: pytest.CaptureFixture[str], *words: str) -> str:
    """Stderr of a command whose task option, of all files, writes to Hydra's own config.

    In a sweep it is an experiment: the jobs' configs are checked before Hydra's is used.
    """
    (here / "c/task/x.yaml").write_text(
        f"# @package _global_\ndefaults:\n  - /task@task: qd\nhydra:\n  {text}\n"
    )
    (here / "c/experiment").mkdir(exist_ok=True)
    (here / "c/experiment/x.yaml").write_text(f"# @package _global_\nhydra:\n  {text}\n")
    command = [
        one if one != "task=[x]" or "-m" not in words else "+experiment=x" for one in COMMAND
    ]
    assert main([*command, *words]) == 1
    assert not (here / "RAN").exists()
    err = capfd.readouterr().err
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize("name", HYDRA)
def test_a_single_job_is_refused_in_one_line(
    here: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    text, message = HYDRA[name]
    assert message in run(here, text, capfd)


@pytest.mark.parametrize("name", SWEEP)
def test_a_sweep_is_refused(here: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    text, message = SWEEP[name]
    assert message in run(here, text, capfd, "-m")


@pytest.mark.parametrize("name", ["handler", "late handler", "variable"])
def test_it_holds_in_the_workers_of_a_launcher(
    here: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    from joblib.externals.loky import get_reusable_executor

    text, message = HYDRA[name]
    try:
        assert message in run(here, text, capfd, *JOBLIB)
    finally:  # the next test's workers start in its own folder
        get_reusable_executor().shutdown(wait=True)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("output_subdir: ../victim", "hydra.output_subdir="),
        ("job_logging: {handlers: {file: {filename: victim/kept.log, mode: w}}}", "kept.log"),
    ],
)
def test_a_config_writes_nothing_outside_the_jobs_folder(
    here: Path, capsys: pytest.CaptureFixture[str], keys: str, said: str
) -> None:
    (here / "victim").mkdir()
    (here / "victim/kept.log").write_text("kept")
    (here / "c/task/x.yaml").write_text(f"# @package _global_\nhydra:\n  {keys}\n")
    assert main([*COMMAND, "hydra.run.dir=out"]) == 1
    assert said in capsys.readouterr().err
    assert [(one.name, one.read_text()) for one in (here / "victim").iterdir()] == [
        ("kept.log", "kept")
    ]


def test_a_rerun_from_a_pickle_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--experimental-re", "x.pickle"]) == 1
    assert main(["evaluate", "--experimental-rerun", "x.pickle"]) == 1
    assert "reads a pickle" in capsys.readouterr().err
