"""The script that SLURM would get: held to a golden, and the one that the launcher submits."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from spinevl.cli.main import main
from spinevl.schema.errors import UserError

pytest.importorskip("submitit")

from spinevl.cli.sbatch import script

WORDS = ["-m", "hydra/launcher=submitit_slurm", "hydra.sweep.dir=sweep", "sag_image=[6],[5,6,7]"]
TWO_NODES = ["trainer=ddp", "trainer.devices=4", "trainer.num_nodes=2", "hydra.launcher.qos=low"]

GOLDEN = """\
#!/bin/bash

# Parameters
#SBATCH --array=0-1%2
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=4
#SBATCH --job-name=run
#SBATCH --mem=64GB
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=HERE/sweep/.submitit/%A_%a/%A_%a_0_log.out
#SBATCH --qos=low
#SBATCH --requeue
#SBATCH --signal=USR2@300
#SBATCH --time=1440
#SBATCH --wckey=submitit

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output HERE/sweep/.submitit/%A_%a/%A_%a_%t_log.out --nodes=1 --ntasks=1 \
--overlap --cpus-per-task=8 PYTHON -u -m submitit.core._submit HERE/sweep/.submitit/%j
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plain(text: str) -> str:
    return text.replace(str(Path.cwd()), "HERE").replace(sys.executable, "PYTHON")


def test_it_is_printed_and_nothing_else_happens(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sbatch", "run", *WORDS, *TWO_NODES]) == 0
    assert plain(capsys.readouterr().out).rstrip("\n") == GOLDEN.rstrip("\n")
    assert not list(Path.cwd().iterdir())


def test_it_is_what_the_launcher_submits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "srun").write_text("#!/bin/sh\n")
    lines = ["#!/bin/sh", f'cp "$1" {tmp_path}/got', "echo no partition >&2", "exit 1", ""]
    (programs / "sbatch").write_text("\n".join(lines))
    for one in programs.iterdir():
        one.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    assert main(["run", *WORDS, *TWO_NODES]) == 1
    told = capfd.readouterr().err
    assert "Traceback" not in told
    assert "no partition" in told
    assert (tmp_path / "got").read_text().rstrip() == script("run", [*WORDS, *TWO_NODES]).rstrip()


def test_one_job_is_no_array_and_a_cpu_asks_for_no_gpu() -> None:
    text = script("predict", [*WORDS[:3], "checkpoint=c"])
    assert "--array" not in text
    assert "--gpus-per-node=1" in text
    assert "--nodes=1\n" in text
    assert "--gpus-per-node=0" in script("train", [*WORDS[:3], "trainer=cpu", "trainer.devices=8"])
    assert "--gpus-per-node=1" in script("train", [*WORDS[:3], "trainer=ddp"])  # auto


def test_a_shipped_sweep_and_batches_make_arrays() -> None:
    assert "array=0-26%16" in script("run", [*WORDS[:3], "experiment=sweep_models"])
    text = script("run", [*WORDS[:3], "seed=range(0,9)", "hydra.sweeper.max_batch_size=4"])
    assert "array=0-3%4" in text
    pytest.importorskip("optuna")
    text = script("run", [*WORDS[:3], "experiment=search_rates", "hydra.sweeper.n_jobs=3"])
    assert "array=0-2%3" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-m", "seed=0,1"], r"hydra/launcher=submitit_slurm.*hydra/launcher=basic"),
        ([*WORDS, "hydra.launcher.nodes=2"], r"hydra\.launcher\.nodes.*trainer\.num_nodes=2"),
        ([*WORDS, "hydra.launcher.tasks_per_node=4"], r"tasks_per_node.*trainer\.devices=4"),
        ([*WORDS, "hydra.launcher.gpus_per_node=many"], "gpus_per_node"),
        ([*WORDS, "+hydra.launcher.time_min=3"], "time_min"),
        ([*WORDS, r"hydra.launcher.comment='a\\n'"], None),
        ([*WORDS, "+hydra.launcher.setup=[touch x]"], r"hydra\.launcher\.setup"),
        ([*WORDS, "hydra.launcher.srun_args=['--task-prolog=x']"], r"hydra\.launcher\.srun_args"),
        ([*WORDS, "+hydra.launcher.additional_parameters.wrap=x"], "additional_parameters"),
    ],
)
def test_other_settings_are_refused_in_a_line(words: list[str], told: str | None) -> None:
    if told is None:
        script("run", words)  # a backslash and an n are no line break
        return
    with pytest.raises(UserError, match=told):
        script("run", words)


def test_a_line_break_cannot_add_a_line_to_the_script(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c/experiment").mkdir()
    for key in ("comment", "partition", "name"):
        (tmp_path / "c/experiment/x.yaml").write_text(
            f'# @package _global_\nhydra: {{launcher: {{{key}: "a\\ntouch RAN\\n"}}}}\n'
        )
        with pytest.raises(UserError, match=rf"hydra\.launcher\.{key}.*touch RAN"):
            script("run", ["--config-dir=c", *WORDS, "experiment=x"])


def test_no_verb_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sbatch"]) == 2
    assert main(["sbatch", "-m", "seed=0,1"]) == 2
    assert main(["sbatch", "run", "-m", "seed=[0"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_the_script_has_a_line_for_each_setting() -> None:
    text = script("run", [*WORDS, "hydra.launcher.timeout_min=90", "hydra.launcher.account=spine"])
    assert re.findall(r"--(?:time|account|partition)=\S+", text) == ["--account=spine", "--time=90"]
