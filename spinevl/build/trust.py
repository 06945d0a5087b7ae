"""What the user trusts, read from the words of the command line and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spinevl.build.allowlist import Allowed
from spinevl.schema.errors import UserError

TARGETS = "trusted_targets"
REMOTE_CODE = "trust_remote_code"
_LLM_REMOTE_CODE = f"llm.{REMOTE_CODE}"
INTERPRETER = "vllm_python"
_VLLM_PYTHON = f"predict.{INTERPRETER}"


@dataclass(frozen=True)
class Trust:
    """What a person has allowed by typing it.

    Attributes:
        targets: names of packages, modules or classes that objects may be built from, besides
            our own.
        remote_code: whether the Python code that comes with a language model may run.
        vllm_python: the interpreter of the environment that vLLM is installed in; None is ours.
    """

    targets: tuple[str, ...] = ()
    remote_code: bool = False
    vllm_python: str | None = None

    @classmethod
    def from_words(cls, words: Sequence[str]) -> Trust:
        """What the words of a command line trust, in the syntax of Hydra's overrides.

        ``trusted_targets=[a,b.c]``, ``llm.trust_remote_code=true`` and
        ``predict.vllm_python=PATH``, each also with ``+`` or ``++`` in front; the last of several
        counts. All other words are ignored.

        Raises:
            UserError: another value, such as an interpolation or a sweep over several.
        """
        targets: tuple[str, ...] = ()
        remote_code = False
        vllm_python = None
        for word in words:
            key, value = _key(word), word.partition("=")[2].strip()
            if key == TARGETS:
                targets = _names(value)
            elif key == _LLM_REMOTE_CODE:
                remote_code = _boolean(value)
            elif key == _VLLM_PYTHON:
                vllm_python = _interpreter(value)
        return cls(targets, remote_code, vllm_python)

    def to_words(self) -> list[str]:
        """The words that trust the same, for a launcher to repeat on a worker's command line."""
        words = [f"{TARGETS}=[{','.join(self.targets)}]"] if self.targets else []
        words += [f"++{_LLM_REMOTE_CODE}=true"] if self.remote_code else []
        return [*words, f"{_VLLM_PYTHON}='{self.vllm_python}'"] if self.vllm_python else words

    @property
    def allowed(self) -> Allowed:
        """The classes that may be built, as ``build_stored`` takes them."""
        return Allowed(self.targets)

    def refuse_untold(self, config: Mapping[str, Any]) -> None:
        """Refuse a composed config that trusts what the command line does not.

        Args:
            config: the whole config as plain dicts and lists, its interpolations not resolved.

        Raises:
            UserError: ``trusted_targets``, a ``trust_remote_code`` or a ``vllm_python`` that comes
                from a YAML file.
        """
        problems = []
        asked = config.get(TARGETS) or ()
        names = [asked] if isinstance(asked, str) else list(asked)
        if untold := [str(name) for name in names if name not in self.targets]:
            problems.append(
                f"{TARGETS}: {', '.join(untold)} comes from a config file, and only the command "
                f"line can say what is trusted: '{TARGETS}=[{','.join(untold)}]'"
            )
        for place, value in _values_of(config, REMOTE_CODE):
            told = self.remote_code and place == _LLM_REMOTE_CODE
            if value is not None and value is not False and not told:
                problems.append(untold_remote_code(place, value))
        for place, value in _values_of(config, INTERPRETER):
            if value is not None and (place, value) != (_VLLM_PYTHON, self.vllm_python):
                problems.append(
                    f"{place}={value}: only the command line can say which program runs: "
                    f"{_VLLM_PYTHON}={value}"
                )
        if problems:
            raise UserError(problems)


NOTHING = Trust()


def says_trust(word: str) -> bool:
    """Whether a word of the command line is one of those that ``Trust.from_words`` reads."""
    return _key(word) in (TARGETS, _LLM_REMOTE_CODE, _VLLM_PYTHON)


def untold_remote_code(place: str, value: Any) -> str:
    """The message for a ``trust_remote_code`` that the command line does not name."""
    return (
        f"{place}={value}: only the command line can allow code that comes with a model to run, "
        f"and only for the language model: {_LLM_REMOTE_CODE}=true"
    )


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+").strip()


def _names(value: str) -> tuple[str, ...]:
    inner = re.fullmatch(r"\[(.*)\]", value)
    if inner is None:
        raise UserError(f"{TARGETS}={value}: expected a list of packages: '{TARGETS}=[mypkg]'")
    names = [name.strip(" '\"") for name in inner[1].split(",")] if inner[1].strip() else []
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise UserError(f"{TARGETS}: {name!r} is no package name such as mypkg.models")
    return tuple(names)


def _boolean(value: str) -> bool:
    if value.casefold() not in ("true", "false"):
        raise UserError(f"{_LLM_REMOTE_CODE}={value}: expected true or false")
    return value.casefold() == "true"


def _interpreter(value: str) -> str | None:
    """The path; what Hydra would resolve, sweep over or unescape is no path."""
    quoted = re.fullmatch(r"""(['"])(.*)\1""", value)
    path = quoted[2] if quoted else value
    if path.casefold() == "null" and not quoted:
        return None
    if not path.strip() or not path.isprintable() or set(path) & set("'\"\\$,{}[]()"):
        raise UserError(
            f"{_VLLM_PYTHON}={value}: expected the path of a Python interpreter, without quotes, "
            f"commas and brackets: {_VLLM_PYTHON}=/opt/vllm/bin/python"
        )
    return path


def _values_of(config: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    """Each value under ``key`` at any depth, with its dotted place."""
    waiting: list[tuple[str, Any]] = [("", config)]
    while waiting:
        where, node = waiting.pop()
        if isinstance(node, Mapping):
            inner = [(f"{where}.{k}" if where else str(k), k, v) for k, v in node.items()]
            yield from ((place, value) for place, name, value in inner if name == key)
            waiting += [(place, value) for place, _, value in inner]
        elif isinstance(node, (list, tuple)):
            waiting += [(f"{where}[{i}]", value) for i, value in enumerate(node)]
