"""``spinevl build`` from the command line: the challenge's arguments, and its refusals."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from command import spinevl

from spinevl.cli.main import main
from spinevl.data import record_files
from spinevl.io.files import write_text_atomic


@pytest.fixture
def challenge(shared: Path) -> list[str]:
    files = shared / "cervai"
    return [
        "data=cervai",
        f"data.labels={files}/labels_train.json",
        f"data.boxes={files}/boxes_train.json",
        f"data.test_labels={files}/submission_template.json",
        "data.train_images=/data/mri_images/train",
        "data.test_images=/data/mri_images/test",
        "data.missing_images=ignore",
        f"prompts.path={files}/templates.json",
        "split=head",
        "split.n_train=320",
    ]


def golden(shared: Path, name: str) -> dict[str, str]:
    """File name -> sha256 of one golden case."""
    manifest = json.loads((shared / "goldens/build/manifest.json").read_text())
    case = next(one for one in manifest["cases"] if one["name"] == name)
    return {file: one["sha256"] for file, one in case["outputs"].items()}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_all_tasks_with_a_suffix_in_a_folder_of_their_own(
    shared: Path, challenge: list[str], tmp_path: Path
) -> None:
    done = spinevl(
        "build",
        *challenge,
        "task=[qd,sl,zjppt,zyzg,positioning]",
        "sag_image=[6]",
        "type_dataset=both",
        "suffix=abc",
        "output_dir=records",
        "hydra.run.dir=job",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    expected = golden(shared, "all5_both_6_suffix")
    assert {path.name: digest(path) for path in (tmp_path / "records").iterdir()} == expected
    manifest = json.loads((tmp_path / "job/manifest.json").read_text())
    assert {name: one["sha256"] for name, one in manifest["outputs"].items()} == expected
    assert manifest["outputs"]["zyzg_train_abc.json"]["records"] == 320 * 11
    assert manifest["inputs"]["labels"] == digest(shared / "cervai/labels_train.json")
    assert manifest["inputs"]["prompts"] == digest(shared / "cervai/templates.json")
    assert manifest["config"]["suffix"] == "abc"
    assert re.fullmatch("[0-9a-f]{16}", manifest["identity"])
    assert manifest["versions"]["numpy"]
    split = json.loads((tmp_path / "job/split.json").read_text())
    assert [split[side]["n_patients"] for side in ("train", "dev")] == [320, 80]
    both = [sum(split[side]["classes"]["qd"][str(label)] for side in split) for label in range(3)]
    assert both == [63, 269, 68]


def test_a_test_list_needs_no_label_file_and_its_zeros_are_no_answers(
    shared: Path, challenge: list[str], tmp_path: Path
) -> None:
    arguments = [one for one in challenge if not one.startswith(("data.labels", "data.boxes"))]
    for name in ("none", "upstream"):
        done = spinevl(
            "build",
            *arguments,
            "type_dataset=test",
            f"test_answers={name}",
            f"hydra.run.dir={name}",
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / name / "split.json").exists()
    for file, sha256 in golden(shared, "readme4_test_four_6").items():
        assert digest(tmp_path / "upstream" / file) == sha256
        zeros = json.loads((tmp_path / "upstream" / file).read_text())
        unknown = json.loads((tmp_path / "none" / file).read_text())
        assert unknown == [{**one, "answer": None} for one in zeros]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("output_dir=/dev/null/records", "output_dir=/dev/null/records: expected a folder"),
        ("data.missing_images=error", "/data/mri_images/train: expected a folder, found none"),
        ("prompts.path=nowhere.json", "nowhere.json: expected a JSON object"),
    ],
)
def test_a_refusal_is_one_line_and_writes_nothing(
    challenge: list[str], tmp_path: Path, override: str, said: str
) -> None:
    done = spinevl("build", *challenge, override, "hydra.run.dir=job", cwd=tmp_path)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert [one.name for one in tmp_path.rglob("*.json")] == ["job.json"]  # which says so


def test_records_of_another_build_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(json.dumps([{"id": x, "qd": 1} for x in "abcde"]))
    common = ["data=cervai", "data.labels=labels.json", "data.train_images=x", "task=[qd]"]
    common += ["data.missing_images=ignore", "output_dir=there", "split=head"]
    for split, code in ((3, 0), (3, 0), (2, 1)):
        done = spinevl(
            "build", *common, f"split.n_train={split}", f"hydra.run.dir=o{split}", cwd=tmp_path
        )
        assert done.returncode == code, done.stderr
    assert "there/qd_train.json" in done.stderr
    assert len(json.loads((tmp_path / "there/qd_train.json").read_text())) == 3


@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_a_build_that_was_cut_is_done_again_by_the_same_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    written: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    labels = [{"id": name, "qd": 1} for name in "abcde"]
    Path("labels.json").write_text(json.dumps(labels))
    words = ["build", "data=cervai", "data.labels=labels.json", "data.train_images=x"]
    words += ["task=[qd]", "data.missing_images=ignore", "split=head", "split.n_train=3"]
    assert main([*words, "hydra.run.dir=whole"]) == 0
    done: list[Path] = []

    def cut(path: Path, text: str) -> None:
        if len(done) == written:
            raise KeyboardInterrupt
        done.append(path)
        write_text_atomic(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(record_files, "write_text_atomic", cut)
        assert main([*words, "hydra.run.dir=out"]) == 130
    assert len(list(Path("out").glob("*_*.json"))) == min(written, 2)
    capsys.readouterr()
    assert main([*words, "hydra.run.dir=out"]) == 0
    assert "is not complete (interrupted)" in capsys.readouterr().err
    for name in ("qd_train.json", "qd_dev.json", "split.json"):
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()
    assert {one.name for one in Path("out").iterdir()} == {
        one.name for one in Path("whole").iterdir()
    }
