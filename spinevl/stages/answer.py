"""Answer the conversations of a file, as they come, and go on where a run was interrupted."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spinevl.io.files import write_text_atomic
from spinevl.io.json_file import read_json_list
from spinevl.schema.dialogue import Picture
from spinevl.sources.conversations import EXPECTED, ConversationSource
from spinevl.stages.prepare import ready_model

log = logging.getLogger(__name__)

PROGRESS = "answers.jsonl"
RESULT = "conversations.json"


def answer_conversations(
    cfg: DictConfig, checkpoint: Path, source: ConversationSource, *, out: Path
) -> None:
    """Answer the questions of ``data.SUBSET`` that have no answer yet.

    Each batch is added to ``answers.jsonl`` as it is done; ``conversations.json``, in MedM-VL's
    format, follows when all are. A job in the same folder keeps the lines whose conversation,
    checkpoint and settings are the same.
    """
    subset = str(cfg.subset)
    dialogues = source.dialogues(subset, answered=False)
    path = Path(str(source.files[subset])).expanduser()
    records = read_json_list(path, expected=EXPECTED)
    print_of = _fingerprint(cfg, checkpoint, window=source.window)
    keys = [
        _key(print_of, record, one.pictures) for record, one in zip(records, dialogues, strict=True)
    ]
    done = _done(out / PROGRESS, keys)
    left = [(index, one) for index, one in enumerate(dialogues) if index not in done]
    if done:
        log.info("%d of %d conversations are answered already", len(done), len(dialogues))
    answers = _predictor(cfg, checkpoint, source).predict(left) if left else ()
    _rewrite(out / PROGRESS, done, keys)
    if left:
        with (out / PROGRESS).open("a", encoding="utf-8") as file:
            for index, rounds in answers:
                done[index] = [list(pair) for pair in rounds]
                file.write(_line(index, keys[index], done[index]))
                file.flush()
    answered = [
        _answered(record, done[index], dialogues[index].truth)
        for index, record in enumerate(records)
    ]
    write_text_atomic(out / RESULT, json.dumps(answered, indent=2, ensure_ascii=False) + "\n")
    log.info("answers to %d conversations in %s", len(records), out / RESULT)


def _predictor(cfg: DictConfig, checkpoint: Path, source: ConversationSource) -> Any:
    from spinevl.inference.dialogues import DialoguePredictor

    model, cache = ready_model(cfg, checkpoint)
    return DialoguePredictor(
        model,
        window=source.window,
        batch_size=cfg.predict.batch_size,
        max_new_tokens=cfg.predict.max_new_tokens or 512,
        repetition_penalty=cfg.predict.repetition_penalty,
        own_history=str(cfg.predict.history) == "own",
        cache=cache,
    )


def _fingerprint(cfg: DictConfig, folder: Path, *, window: Any) -> str:
    """What answers depend on besides the conversation: the checkpoint's files and the settings."""
    files = [(file.name, *_stamp(file)) for file in sorted(folder.rglob("*")) if file.is_file()]
    options = (cfg.predict.max_new_tokens, cfg.predict.repetition_penalty, str(cfg.predict.history))
    return repr((files, options, window))


def _key(fingerprint: str, record: Any, pictures: Sequence[Picture]) -> str:
    files = [(path, *_stamp(Path(path))) for _, path in pictures]
    text = fingerprint + repr(files) + json.dumps(record, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stamp(file: Path) -> tuple[int, int]:
    """Size and time of a file's last change."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _done(file: Path, keys: list[str]) -> dict[int, list[list[str]]]:
    """The rounds that an interrupted job answered, by index; a line cut short counts as not."""
    done: dict[int, list[list[str]]] = {}
    if not file.is_file():
        return done
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            index, key, rounds = entry["index"], entry["key"], entry["rounds"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(index, int) and 0 <= index < len(keys) and keys[index] == key:
            done[index] = rounds
    return done


def _rewrite(file: Path, done: Mapping[int, list[list[str]]], keys: list[str]) -> None:
    """Only whole lines that still hold: what is added next stands on a line of its own."""
    lines = [_line(index, keys[index], rounds) for index, rounds in sorted(done.items())]
    write_text_atomic(file, "".join(lines))


def _line(index: int, key: str, rounds: list[list[str]]) -> str:
    entry = {"index": index, "key": key, "rounds": rounds}
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _answered(record: dict[str, Any], rounds: list[list[str]], truth: str | None) -> dict[str, Any]:
    """A record with the answers as its gpt turns, and the file's own last answer beside them."""
    turns = [
        {"from": role, "value": text}
        for pair in rounds
        for role, text in zip(("human", "gpt"), pair, strict=True)
    ]
    return {**record, "conversations": turns, "answer": truth or record.get("answer", "")}
