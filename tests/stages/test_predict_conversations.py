"""Training on conversations and answering them, as commands do."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from vllm_environment import fake_environment

from spinevl.build.trust import Trust
from spinevl.config.compose import compose
from spinevl.inference import predictor, writer
from spinevl.schema.errors import UserError
from spinevl.stages import build, doctor, predict, train

FAST = [
    "trainer.max_epochs=2",
    "trainer.dev_checks=1",
    "trainer.progress_bar=false",
    "warmup=none",
    "encoder.image_size=64",
    "encoder.dim=16",
    "encoder.widths=[8,8,16]",
    "llm.width=32",
    "optim.lr.llm=3e-3",
]


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[k % 2], "value": text} for k, text in enumerate(texts)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of mixed conversations: one image, several, none, one turn and several."""
    folder = tmp_path_factory.mktemp("conversations")
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    records = [
        {"id": "one", "image": "0.jpg", "conversations": turns("<image>\nCurve?", "Straight.")},
        {
            "id": "two",
            "image": ["1.jpg", "2.jpg"],
            "task": "report",
            "conversations": turns("<image><image>\nReport?", "A long one.", "Sure?", "Yes."),
        },
        {"id": "text", "conversations": turns("What is MRI?", "A scan.")},
        {"id": "last", "image": "3.jpg", "conversations": turns("<image>\nC3?", "Normal.")},
    ]
    (folder / "all.json").write_text(json.dumps(records))
    return folder


def config(verb: str, folder: Path, *overrides: str) -> Any:
    return compose(verb, ["data=conversations", f"cache_dir={folder}/cache", *overrides])


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    files = [f"data.train={folder}/all.json", f"data.dev={folder}/all.json"]
    cfg = config("train", folder, *files, *FAST, "data.ratios={report: 2}", "trainer.max_epochs=20")
    (folder / "train").mkdir()
    score = train.main(cfg, out=folder / "train")
    told = json.loads((folder / "train/train.json").read_text())
    assert score == told["dev_score"]
    assert told["steps"] == 20 * 2  # five conversations an epoch, four a step
    assert score > -math.log(1000)  # far above a guess among the tokenizer's tokens
    return folder / "train/checkpoint"


def test_every_kind_of_conversation_is_learned(checkpoint: Path) -> None:
    rows = (checkpoint.parent / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("loss/answer")
    losses = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert losses[-1] < 0.7 * losses[0]


def test_answers_are_written_as_they_come_and_an_interrupted_run_goes_on(
    folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [
        f"data.test={folder}/all.json",
        f"checkpoint={checkpoint}",
        "predict.max_new_tokens=8",
        "predict.batch_size=1",
    ]
    cfg = config("predict", folder, *options)
    out = folder / "answers"
    out.mkdir()
    predict.main(cfg, out=out)
    whole = (out / "conversations.json").read_text()
    lines = (out / "answers.jsonl").read_text().splitlines()
    assert len(lines) == 4

    # killed in the middle of the third line
    (out / "conversations.json").unlink()
    (out / "answers.jsonl").write_text("\n".join(lines[:2]) + "\n" + lines[2][:20])
    asked = []
    real = predictor.Predictor._answers

    def counted(self: Any, batches: Any) -> Any:
        asked.extend(one.key.patient for batch in batches for [(_, one)] in batch)
        return real(self, batches)

    monkeypatch.setattr(predictor.Predictor, "_answers", counted)
    predict.main(cfg, out=out)
    assert asked == ["text", "last"]
    assert (out / "conversations.json").read_text() == whole
    assert (out / "answers.jsonl").read_text().splitlines() == lines

    # an image that changed is looked at again
    asked.clear()
    os.utime(folder / "3.jpg")
    predict.main(cfg, out=out)
    assert asked == ["last"]

    # other settings: nothing of it holds
    asked.clear()
    predict.main(config("predict", folder, *options, "predict.max_new_tokens=4"), out=out)
    assert asked == ["one", "two", "text", "last"]


def test_answers_stand_in_upstreams_format_beside_the_truth(folder: Path, checkpoint: Path) -> None:
    options = [f"data.test={folder}/all.json", f"checkpoint={checkpoint}"]
    out = folder / "format"
    out.mkdir()
    predict.main(config("predict", folder, *options, "predict.max_new_tokens=8"), out=out)
    records = json.loads((folder / "all.json").read_text())
    given = json.loads((out / "conversations.json").read_text())
    for record, answered in zip(records, given, strict=True):
        assert answered["id"] == record["id"]
        assert answered.get("image") == record.get("image")
        asked = [turn["from"] for turn in answered["conversations"]]
        assert asked == [turn["from"] for turn in record["conversations"]]
        assert answered["answer"] == record["conversations"][-1]["value"]
        # earlier turns are the file's own
        assert answered["conversations"][:-1] == record["conversations"][:-1]


def test_a_conversation_may_go_on_from_the_models_own_answers(
    folder: Path, checkpoint: Path
) -> None:
    options = [
        f"data.test={folder}/all.json",
        f"checkpoint={checkpoint}",
        "predict.max_new_tokens=8",
        "predict.history=own",
    ]
    out = folder / "own"
    out.mkdir()
    predict.main(config("predict", folder, *options), out=out)
    own = json.loads((out / "conversations.json").read_text())[1]["conversations"]
    first = {"id": "x", "image": ["1.jpg", "2.jpg"], "conversations": own[:1]}
    second = {**first, "conversations": own[:3]}
    (folder / "asked.json").write_text(json.dumps([first, second]))
    (folder / "again").mkdir()
    cfg = config("predict", folder, *options[1:3], f"data.test={folder}/asked.json")
    predict.main(cfg, out=folder / "again")
    given = json.loads((folder / "again/conversations.json").read_text())
    assert given[0]["conversations"][1] == own[1]
    assert given[1]["conversations"][3] == own[3]


def test_what_the_llm_cannot_hold_is_refused_before_anything_is_written(
    folder: Path, checkpoint: Path
) -> None:
    long = [{"conversations": turns("word " * 2000)}]
    (folder / "long.json").write_text(json.dumps(long))
    (folder / "long").mkdir()
    cfg = config("predict", folder, f"data.test={folder}/long.json", f"checkpoint={checkpoint}")
    with pytest.raises(UserError, match=r"record 0 .* at most 1024 tokens"):
        predict.main(cfg, out=folder / "long")
    fits = [{"conversations": turns("short")}, {"conversations": turns("word " * 120)}]
    (folder / "long.json").write_text(json.dumps(fits))  # the prompt fits, an answer would not
    message = r"record 1 .* at most 1024 tokens .* found 602 and predict\.max_new_tokens=900"
    with pytest.raises(UserError, match=message):
        predict.main(
            config(
                "predict",
                folder,
                f"data.test={folder}/long.json",
                f"checkpoint={checkpoint}",
                "predict.max_new_tokens=900",
            ),
            out=folder / "long",
        )
    assert list((folder / "long").iterdir()) == []


def test_a_training_starts_from_a_checkpoint(folder: Path, checkpoint: Path) -> None:
    files = [f"data.train={folder}/all.json", f"data.dev={folder}/all.json"]
    start = json.loads((checkpoint.parent / "train.json").read_text())["dev_score"]
    cfg = config(
        "train",
        folder,
        *files,
        *(one for one in FAST if not one.startswith(("encoder", "llm"))),
        f"checkpoint={checkpoint}",
        "tuning=lora",
        "optim.lr.llm=0",
    )
    # no step moves far from where the first training ended
    (folder / "more").mkdir()
    score = train.main(cfg, out=folder / "more")
    assert score is not None
    assert abs(score - start) < 0.3


def test_a_bad_image_is_told_before_training(folder: Path) -> None:
    whole = (folder / "0.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no image")
    records = [
        {"image": name, "conversations": turns("<image>?", "A.")}
        for name in ("0.jpg", "cut.jpg", "text.jpg")
    ]
    (folder / "bad.json").write_text(json.dumps(records))
    (folder / "bad").mkdir()
    cfg = config("train", folder, f"data.train={folder}/bad.json", *FAST)
    with pytest.raises(UserError) as caught:
        train.main(cfg, out=folder / "bad")
    assert sorted(Path(p.split(":")[0]).name for p in caught.value.problems) == [
        "cut.jpg",
        "text.jpg",
    ]
    # what the job was asked stands there from the start
    assert [file.name for file in (folder / "bad").iterdir()] == ["train_spec.json"]


def test_doctor_reads_conversations(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [f"data.train={folder}/all.json", f"data.test={folder}/all.json"]
    doctor.main(config("doctor", folder, *files, *FAST), out=folder)
    told = capsys.readouterr().out.splitlines()
    memory = [line for line in told if line.startswith("estimate  ")][:-1]
    assert told[: len(memory)] == memory  # before anything is loaded
    for part in ("encoder", "connector", "llm", "logits"):
        assert any(part in line for line in memory)
    lines = told[len(memory) :]
    assert lines[:3] == [
        "ok  conversations (train, test)",
        "ok  train: 4 conversations, 4 images",
        "ok  test: 4 conversations, 4 images",
    ]
    assert [line.split(":")[0] for line in lines[3:]] == [
        "warn  the same image in two of train, dev and test",
        "ok  model",
        "estimate  training",
    ]
    with pytest.raises(UserError, match="name a JSON file"):
        doctor.main(config("doctor", folder, *FAST), out=folder)


def test_what_asks_patients_refuses_conversations(folder: Path) -> None:
    cfg = config("build", folder, f"data.train={folder}/all.json")
    with pytest.raises(UserError, match="choose data=cervai or data=phantom"):
        build.main(cfg, out=folder)


def test_a_checkpoint_of_conversations_knows_that_it_is_one(folder: Path, checkpoint: Path) -> None:
    cfg = compose("predict", [f"checkpoint={checkpoint}"])
    with pytest.raises(UserError, match=r"data\.test is not set: name a JSON file"):
        predict.main(cfg, out=folder)


def test_a_foreign_checkpoint_is_told_the_study(shared: Path, tmp_path: Path) -> None:
    golden = shared / "goldens/clip_mlp_qwen2/checkpoint"
    with pytest.raises(UserError, match=r"data, task, prompts, sag_image, sag_type: .* add data="):
        predict.main(compose("predict", [f"checkpoint={golden}"]), out=tmp_path)
    study = ["data=phantom", "task=[qd,sl,zjppt,zyzg]", "prompts=en", "sag_image=[6]"]
    numbers = ["data.n_train=4", "data.n_dev=2", "data.n_test=2", f"cache_dir={tmp_path}/cache"]
    options = [*study, *numbers, "sag_type=joint", f"checkpoint={golden}"]
    predict.main(compose("predict", options), out=tmp_path)
    answers = json.loads((tmp_path / "answers.json").read_text())
    assert len(answers) == 2


def test_answers_are_those_of_upstreams_inference(shared: Path, tmp_path: Path) -> None:
    golden = shared / "goldens/clip_mlp_qwen2"
    options = [
        f"data.test={golden}/inference_cli_input.json",
        f"data.images={shared}/goldens/data",
        f"checkpoint={golden}/checkpoint",
        "predict.batch_size=2",
        "predict.max_new_tokens=16",
    ]
    predict.main(config("predict", tmp_path, *options), out=tmp_path)
    given = json.loads((tmp_path / "conversations.json").read_text())
    assert given == json.loads((golden / "inference_cli_output_bs2.json").read_text())


def test_an_image_in_a_given_answer_keeps_its_place(
    folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = turns("<image>?", "It is like <image>.", "And <image>?")
    record = {"image": ["0.jpg", "1.jpg", "2.jpg"], "conversations": talk}
    (folder / "shown.json").write_text(json.dumps([record]))
    (folder / "shown").mkdir()
    shown = []
    real = writer.greedy

    def greedy(model: Any, *, prompts: Any, visual_rows: Any, **options: Any) -> Any:
        (rows,) = (one.visual_index for one in prompts)
        shown.append((len(visual_rows), rows[rows >= 0].tolist()))
        return real(model, prompts=prompts, visual_rows=visual_rows, **options)

    monkeypatch.setattr(writer, "greedy", greedy)
    options = [f"data.test={folder}/shown.json", f"checkpoint={checkpoint}"]
    predict.main(config("predict", folder, *options), out=folder / "shown")
    assert shown == [(12, list(range(12)))]  # four tokens of each of three images, in order
    with pytest.raises(UserError, match=r"an answer shows an image, and predict\.history=own"):
        predict.main(
            config("predict", folder, *options, "predict.history=own"), out=folder / "shown"
        )


def test_text_alone_trains_where_only_the_eyes_learn(folder: Path) -> None:
    (folder / "eyes").mkdir()
    cfg = config(
        "train",
        folder,
        f"data.train={folder}/all.json",
        *FAST,
        "tuning=connector",
        "trainer.batch_patients=1",
        "trainer.max_epochs=1",
        "seed=4294967295",
    )
    train.main(cfg, out=folder / "eyes")
    assert json.loads((folder / "eyes/train.json").read_text())["steps"] == 4


def test_volumes_are_windowed_as_they_were_in_training(folder: Path, checkpoint: Path) -> None:
    options = [f"data.test={folder}/all.json", f"checkpoint={checkpoint}"]
    cfg = config("predict", folder, *options, "data.window=[0,80]")
    with pytest.raises(UserError, match=r"add 'data\.window=\[-1000,1000\]'"):
        predict.main(cfg, out=folder)


def test_a_checkpoint_that_hears_no_question_is_refused(folder: Path) -> None:
    (folder / "pre").mkdir()
    files = f"data.train={folder}/all.json"
    only = [{"conversations": turns("Q?", "A")}] * 3  # text alone, one token
    (folder / "one.json").write_text(json.dumps(only))
    one = f"data.train={folder}/one.json"
    cfg = config("train", folder, one, *FAST, "llm.conversation=pretrain")
    with pytest.raises(UserError, match=r"record 2 .* a token to learn"):
        train.main(cfg, out=folder / "pre")
    cfg = config("train", folder, files, *FAST, "llm.conversation=pretrain")
    train.main(cfg, out=folder / "pre")
    options = [f"data.test={folder}/all.json", f"checkpoint={folder}/pre/checkpoint"]
    with pytest.raises(UserError, match="it ignores questions"):
        predict.main(config("predict", folder, *options), out=folder / "pre")


def with_vllm(folder: Path, checkpoint: Path, *words: str) -> tuple[Any, Trust]:
    python = f"predict.vllm_python={fake_environment(folder)}"
    options = [f"data.test={folder}/all.json", f"checkpoint={checkpoint}", python, *words]
    options += ["predict.engine=vllm", "predict.max_new_tokens=8"]
    return config("predict", folder, *options), Trust.from_words(options)


def test_vllm_writes_in_a_process_of_its_own(folder: Path, checkpoint: Path) -> None:
    cfg, trust = with_vllm(folder, checkpoint)
    for name in ("vllm", "native"):
        (folder / name).mkdir()
    (folder / "vllm/job.json").write_text("{}")
    predict.main(cfg, out=folder / "vllm", trust=trust)
    settled = json.loads((folder / "vllm/job.json").read_text())["settled"]
    assert settled["predict.engine"] == "vllm 9.9"
    assert sorted(file.name for file in (folder / "vllm").iterdir()) == [
        "answers.jsonl",
        "conversations.json",
        "job.json",
        "vllm.log",
    ]
    cfg.predict.engine = "native"
    predict.main(cfg, out=folder / "native")
    whole = (folder / "native/conversations.json").read_text()
    assert (folder / "vllm/conversations.json").read_text() == whole


def test_vllm_that_stops_fails_the_job_and_what_it_answered_is_kept(
    folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder / "stops"
    out.mkdir()
    cfg, trust = with_vllm(folder, checkpoint)
    monkeypatch.setenv("FAKE_VLLM", "ends at step")
    with pytest.raises(UserError, match=r"exit code 3 .*vllm\.log; predict\.engine=native"):
        predict.main(cfg, out=out, trust=trust)
    assert sorted(file.name for file in out.iterdir()) == ["answers.jsonl", "vllm.log"]


def test_an_interpreter_is_named_by_the_command_line_alone(folder: Path, checkpoint: Path) -> None:
    cfg, _ = with_vllm(folder, checkpoint)
    with pytest.raises(UserError, match=r"predict\.engine=vllm: expected vLLM .*found none"):
        predict.main(cfg, out=folder)  # what the config says is not asked
    with pytest.raises(UserError, match=r"predict\.repetition_penalty=1\.1: expected 1"):
        with_vllm(folder, checkpoint, "predict.repetition_penalty=1.1")
