"""Every YAML under conf/: documented, composable, and its targets take what it gives them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from spinevl.build.allowlist import OURS
from spinevl.build.signature import signature_of
from spinevl.cli.help import groups_of, key_help, options
from spinevl.cli.main import main
from spinevl.cli.verbs import VERBS
from spinevl.config.compose import compose
from spinevl.config.conf_dir import CONF_DIR
from spinevl.config.options import SCHEMAS

FILES = sorted(CONF_DIR.rglob("*.yaml"))
EXPERIMENTS = options("experiment")
CLI_DOC = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def name(file: Path) -> str:
    return str(file.relative_to(CONF_DIR))


@pytest.mark.parametrize("file", FILES, ids=name)
def test_the_first_comment_says_what_it_is_for_and_gives_a_command(file: Path) -> None:
    lines = file.read_text("utf-8").splitlines()
    first = next(line for line in lines if not line.startswith("# @package"))
    match = re.fullmatch(r"# (?P<purpose>.{10,}): (?P<command>spinevl (?P<verb>\w+)( .+)?)", first)
    assert match, f"{first!r} is no '# purpose: spinevl VERB ...'"
    assert match["verb"] in VERBS


def commands() -> Iterator[tuple[str, str]]:
    for file in FILES:
        text = file.read_text("utf-8")
        yield name(file), re.search(r"^# .*?: (spinevl .*)$", text, re.MULTILINE)[1]


def verb_and_overrides(command: str) -> tuple[str, list[str]]:
    _, verb, *arguments = command.split()
    overrides = [one.strip("'") for one in arguments if "=" in one]
    if "-m" in arguments:
        overrides = [re.sub(r"=(\w+),.*", r"=\1", one) for one in overrides]
    return verb, overrides


@pytest.mark.parametrize(("file", "command"), list(commands()))
def test_the_command_composes(file: str, command: str) -> None:
    verb, overrides = verb_and_overrides(command)
    compose(verb, overrides)


def experiments() -> Iterator[tuple[str, str]]:
    """Each with every verb that has experiments, but for what the command of its file shows."""
    shown = [verb_and_overrides(command) for _, command in commands()]
    for verb in ("train", "run", "doctor"):
        for name in EXPERIMENTS:
            if (verb, [f"experiment={name}"]) not in shown:
                yield verb, name


@pytest.mark.parametrize(("verb", "experiment"), list(experiments()))
def test_every_experiment_composes(verb: str, experiment: str) -> None:
    compose(verb, [f"experiment={experiment}"])


def targets(node: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield where, node
        for key, value in node.items():
            yield from targets(value, f"{where}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from targets(value, f"{where}[{index}]")


def roles() -> dict[str, type]:
    """The role that each config group is built for."""
    from spinevl.data.split import Splitter
    from spinevl.models.connector.base import Connector
    from spinevl.models.encoder.base import Encoder
    from spinevl.models.llm import CausalLM
    from spinevl.schema.cohort import DataSource
    from spinevl.schema.task import Task
    from spinevl.sources.conversations import ConversationSource

    return {
        "task": Task,
        "data": DataSource,
        "conversations": ConversationSource,
        "split": Splitter,
        "encoder": Encoder,
        "connector": Connector,
        "llm": CausalLM,
    }


@pytest.mark.parametrize("file", [f for f in FILES if "hydra" not in f.parts], ids=name)
def test_every_target_takes_what_the_file_gives_it(file: Path) -> None:
    for where, node in targets(OmegaConf.to_container(OmegaConf.load(file)), file.stem):
        arguments = {key: value for key, value in node.items() if not key.startswith("_")}
        cls = OURS.find(
            node["_target_"], roles().get(file.stem) or roles()[file.parent.name], where=where
        )
        # what is missing comes from the stage (sizes) or from the user (???)
        takes = signature_of(cls)
        assert takes.open_ended or set(arguments) <= set(takes.parameters)


def table(text: str) -> dict[str, dict[str, str]]:
    """The rows of the first table that has a ``key`` and a ``build`` column, by key."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    start = next(i for i, row in enumerate(rows) if row[:2] == ["key", "build"])
    end = next(i for i, row in enumerate(rows) if i > start and row[0] == "key")
    return {
        row[0].strip("`"): dict(zip(rows[start], row, strict=True)) for row in rows[start + 2 : end]
    }


@pytest.mark.parametrize("verb", VERBS)
def test_the_manual_lists_exactly_the_keys_of_each_verb(verb: str) -> None:
    documented = {key for key, row in table(CLI_DOC.read_text("utf-8")).items() if row[verb]}
    keys = set(SCHEMAS[verb].__dataclass_fields__)
    for group in {"predict", "feature_cache"} & keys:
        keys = keys - {group} | {f"{group}.{key}" for key in compose(verb)[group]}
    assert documented == keys


def test_the_manual_names_every_option_and_every_key_of_a_group() -> None:
    text = CLI_DOC.read_text("utf-8")
    rows = table(text)
    for group in {group for verb in VERBS for group in groups_of(verb)} - {"experiment"}:
        for option in options(group):
            assert f"`{option}`" in rows[group]["values"], f"{group}={option} is not in {CLI_DOC}"
    dotted = {key for verb in VERBS for key in key_help(SCHEMAS[verb]) if "." in key}
    assert {"tuning.lora.r", "optim.lr.heads", "augment.gain", "logger.wandb.tags"} < dotted
    for key in dotted:
        assert f"`{key}`" in text, f"{key} is not in {CLI_DOC}"
    for group in ("data", "split"):
        for option in options(group):
            for key in OmegaConf.load(CONF_DIR / group / f"{option}.yaml"):
                if not str(key).startswith("_"):
                    assert f"`{group}.{key}`" in text, f"{group}.{key} is not in {CLI_DOC}"


def test_the_layout_of_the_docs_composes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", CLI_DOC.read_text("utf-8"), re.DOTALL)
    (text,) = [one for one in blocks if "override /data: cervai" in one]
    monkeypatch.chdir(tmp_path)
    Path("my_conf/experiment").mkdir(parents=True)
    Path("my_conf/experiment/scans.yaml").write_text(text)
    words = ["--config-dir", "my_conf", "experiment=scans", "--cfg", "job"]
    assert main(["run", *words]) == 0
    config = OmegaConf.create(capsys.readouterr().out)
    assert (config.data.side_px, config.encoder.image_size) == (160, 160)
    assert list(config.sag_image) == [9]
