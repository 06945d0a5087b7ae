"""The command line as a user meets it: verbs, flags, refusals, start-up time, completion."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spinevl.cli import completion
from spinevl.cli.main import VERBS, main


def labels(count: int = 6) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{i:04d}",
            "qd": i % 3,
            "sl": i % 2,
            "zjppt": [(i + k) % 4 for k in range(5)],
            "zyzg": [(i * k) % 4 for k in range(11)],
        }
        for i in range(count)
    ]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a label file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.json").write_text(json.dumps(labels()))
    return tmp_path


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {verb} " in out for verb in VERBS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["--version"], ["run", "--version"], ["run", "task=[qd]", "--version"]):
        assert main(command) == 0
        assert capsys.readouterr().out.startswith("spinevl 0.")


def test_an_unknown_verb_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evalute"]) == 2
    assert "did you mean evaluate?" in capsys.readouterr().err


def test_help_of_a_verb_lists_its_groups_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--help"]) == 0
    out = capsys.readouterr().out
    assert "task: positioning, qd" in out
    assert "encoder" not in out
    assert main(["run", "--help", "split=files"]) == 0  # lacks values that a job must be given
    assert "dev: ???" in capsys.readouterr().out
    assert main(["run", "--help", "encoder=foo"]) == 1
    assert main(["run", "encoder.dim=64", "--help"]) == 0
    assert "  dim: 64 " in capsys.readouterr().out


def test_cfg_job_prints_the_composed_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--cfg", "job", "sag_image=[5,6]", "task=[qd]"]) == 0
    out = capsys.readouterr().out
    assert "sag_image:\n- 5\n- 6\n" in out
    assert "hydra" not in out.replace("${hydra", "")


@pytest.mark.parametrize("override", ["lables=x", "task=[foo]", "missing=maybe", "task=[qd,qd]"])
def test_a_mistake_is_one_line_and_exit_code_1(
    here: Path, capsys: pytest.CaptureFixture[str], override: str
) -> None:
    assert main(["evaluate", override]) == 1
    err = capsys.readouterr().err
    assert err.startswith("spinevl: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "override",
    ["cache_dir=${no.such.key}", "data.labels=${oc.env:NOT_SET_X}/l.json", "suffix=${suffix}"],
)
@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_an_interpolation_without_a_value_is_one_line_in_a_job(
    here: Path, capsys: pytest.CaptureFixture[str], override: str, sweep: list[str]
) -> None:
    assert main(["build", *sweep, override]) == 1
    err = capsys.readouterr().err
    assert f"spinevl: {override}: " in err
    assert "Traceback" not in err


def test_a_job_that_meets_a_users_mistake_says_each_problem(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "short.json").write_text(json.dumps(labels(4)))
    assert main(["evaluate", "labels=labels.json", "answers=short.json"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert all(line.startswith("spinevl: ") for line in err.splitlines())
    assert "0004" in err
    assert "0005" in err


def test_a_job_writes_below_the_working_directory_or_where_told(here: Path) -> None:
    files = ["labels=labels.json", "answers=labels.json"]
    assert main(["evaluate", *files, "hydra.run.dir=out"]) == 0
    assert json.loads((here / "out" / "metrics.json").read_text())["score"] == 1.0
    assert (here / "out" / ".hydra" / "config.yaml").is_file()
    assert main(["evaluate", *files]) == 0
    (folder,) = (here / "outputs" / "evaluate").iterdir()
    assert (folder / "metrics.json").is_file()
    assert Path.cwd() == here


def test_python_m_composes_and_helps_without_torch(here: Path) -> None:
    code = (
        "import sys; sys.argv = ['spinevl', *sys.argv[1:]]\n"
        "from spinevl.cli.main import main\n"
        "code = main()\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "sys.exit(code)"
    )
    for arguments in (["run", "--cfg", "job"], ["run", "--help"]):
        subprocess.run(
            [sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL
        )
    module = [sys.executable, "-m", "spinevl", "evaluate", "--cfg", "job"]
    result = subprocess.run(module, capture_output=True, text=True, check=True)
    assert "missing: error" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "labels=labels.json", "answers=labels.json"],
        ["build", "data.n_train=2", "data.n_dev=1", "data.n_test=1", "task=[qd]", "cache_dir=c"],
    ],
)
def test_build_and_evaluate_need_no_torch(here: Path, arguments: list[str]) -> None:
    code = (
        "import sys\nfrom spinevl.cli.main import main\ncode = main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules\nsys.exit(code)"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL)


def test_a_users_folder_and_the_python_beside_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their task class is found beside --config-dir, and only built when trusted."""
    (here / "mine" / "conf" / "task").mkdir(parents=True)
    (here / "mine" / "beside_conf.py").write_text(
        "from spinevl.schema.task import Task\nclass MyTask(Task):\n    pass\n"
    )
    (here / "mine" / "conf" / "task" / "curve.yaml").write_text(
        "qd:\n  _target_: beside_conf.MyTask\n  name: qd\n  title: t\n"
        "  choices: [a, b, c]\n  weight: 1.0\n"
    )
    command = ["evaluate", "--config-dir", "mine/conf", "task=[curve]"]
    command += ["labels=labels.json", "answers=labels.json", "hydra.run.dir=out"]
    assert main(command) == 1
    assert "trusted_targets=[beside_conf]" in capsys.readouterr().err
    assert main([*command, "trusted_targets=[beside_conf]"]) == 0
    assert json.loads((here / "out" / "metrics.json").read_text())["qd"]["f1"] == 1.0


@pytest.mark.parametrize(
    ("line", "choices"),
    [
        ("spinevl ", [f"{verb} " for verb in VERBS]),
        ("spinevl ev", ["evaluate "]),
        ("spinevl run encoder=c", ["encoder=clip"]),
        ("spinevl run -m seed=0,1 data.n_t", ["data.n_test=", "data.n_train="]),
        ("spinevl evaluate lab", ["labels="]),
        ("spinevl nope x", []),
    ],
)
def test_completion_knows_verbs_groups_and_keys(line: str, choices: list[str]) -> None:
    assert completion.query(line) == choices


def test_hydras_completion_flags_answer_for_a_verb(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["run", "-sc", "install=bash"]) == 0
    assert capsys.readouterr().out.strip() == completion.SCRIPTS["bash"]
    monkeypatch.setenv("COMP_LINE", "spinevl run connector=m")
    assert main(["run", "-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.split() == ["connector=mlp"]
    assert main(["completion", "tcsh"]) == 2


def test_bash_completes_the_word_under_the_cursor(tmp_path: Path) -> None:
    """The script in a real bash, with a stand-in ``spinevl`` that answers queries."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    command = bin_dir / "spinevl"
    command.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import sys; from spinevl.cli.main import main;"
        ' sys.exit(main())\' "$@"\n'
    )
    command.chmod(0o755)
    script = (
        f"{completion.SCRIPTS['bash']}\n"
        "COMP_LINE='spinevl run encoder=c'; COMP_POINT=${#COMP_LINE}; _spinevl_complete\n"
        'echo "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() in ("clip", "encoder=clip")  # bash cuts words at "="


def test_output_that_nobody_reads_any_more_ends_a_command_quietly() -> None:
    """As with ``spinevl --help | head -1``."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "spinevl", "--help"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_log_file_of_a_command_is_none_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = logging.getLogger().handlers[:]
    assert main(["doctor", "data=cervai", "answers=none.json"]) == 1
    assert logging.getLogger().handlers == before
