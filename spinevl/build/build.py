"""Objects from ``_target_`` nodes, and only from an allowlist.

A config file is data, and data travels: inside checkpoints, in mails, from the web. So a target
must be one of this project's parts, one of the named torch and Lightning classes, or lie under a
prefix that the person at the keyboard trusts (``trusted_targets=[mypkg]`` on the command line).
A config stored in a checkpoint is built with what the command line trusts, never with what the
stored config says of itself.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spinevl.schema.errors import UserError

# Parts only: stages, files and this module could do more than build an object.
OWN_PARTS = (
    "spinevl.data",
    "spinevl.models",
    "spinevl.schema.task",
    "spinevl.sources",
    "spinevl.training",
)

# where checkpoints of earlier versions say that a class stands -> where it stands now
MOVED = {
    "spinevl.data.cervai.CervAISource": "spinevl.sources.cervai.CervAISource",
    "spinevl.data.conversations.ConversationSource": (
        "spinevl.sources.conversations.ConversationSource"
    ),
    "spinevl.data.phantom.source.PhantomSource": "spinevl.sources.phantom.source.PhantomSource",
}

NAMED_TARGETS = frozenset(
    [f"torch.optim.{name}" for name in ("Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "SGD")]
    + [
        f"torch.nn.{name}"
        for name in ("GELU", "ReLU", "SiLU", "Tanh", "Identity", "Linear", "LayerNorm", "RMSNorm")
    ]
    + [
        f"pytorch_lightning.{name}"
        for name in (
            "Trainer",
            "callbacks.EarlyStopping",
            "callbacks.LearningRateMonitor",
            "callbacks.ModelCheckpoint",
            "callbacks.RichProgressBar",
            "callbacks.TQDMProgressBar",
            "loggers.CSVLogger",
            "loggers.TensorBoardLogger",
            "loggers.WandbLogger",
            "strategies.DDPStrategy",
            "strategies.DeepSpeedStrategy",
            "strategies.FSDPStrategy",
            "strategies.SingleDeviceStrategy",
        )
    ]
)

_SPECIAL = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")


def build(node: Any, *, where: str = "", trusted: Sequence[str] = (), **kwargs: Any) -> Any:
    """The object that a config node describes; nested nodes are built first.

    Every target is checked before anything is imported or called. Plain mappings and lists become
    dicts and lists, ``null`` becomes None, ``_partial_: true`` gives a ``functools.partial``.

    Args:
        node: a plain config with ``_target_``, or containers of such.
        where: its dotted key, for messages.
        trusted: module prefixes allowed besides our own, from the command line only.
        kwargs: arguments that the caller knows, such as sizes; they win over the node's.

    Raises:
        UserError: a target outside the allowlist, one that does not exist, arguments that its
            signature refuses, or a ValueError of the constructor.
    """
    check_targets(node, where=where, trusted=trusted)
    if kwargs and not (isinstance(node, Mapping) and "_target_" in node):
        raise UserError(f"{where or 'config'}: a node that is built with sizes needs a _target_")
    return _build(node, where, trusted, kwargs)


def check_targets(node: Any, *, where: str = "", trusted: Sequence[str] = ()) -> None:
    """Refuse every target of a plain node that lies outside the allowlist, all in one error."""
    refused: list[str] = []
    _collect(node, where, trusted, refused)
    if refused:
        raise UserError(refused)


def resolve(target: str, *, trusted: Sequence[str] = (), where: str = "") -> Callable[..., Any]:
    """The class or function that a target names, once it is shown to be what it claims.

    A path such as ``spinevl.io.image_file.os.system`` starts like ours and ends elsewhere, so what
    it leads to must be defined in an allowed module too.
    """
    check_targets({"_target_": target}, where=where, trusted=trusted)
    parts = target.split(".")
    found: Any = None
    for end in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:end])
        try:
            found = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name == error.name or module_name.startswith(error.name)):
                continue
            raise  # the module is there and lacks one of its own imports
        try:
            for name in parts[end:]:
                found = getattr(found, name)
        except AttributeError:
            found = None
        break
    if found is None or not callable(found):
        raise UserError(f"{_at(where)}nothing to build is called {target}; check the spelling")
    home = getattr(found, "__module__", None) or ""
    if target not in NAMED_TARGETS and not _under(home, (*OWN_PARTS, *trusted)):
        raise UserError(
            f"{_at(where)}{target} is really {home}.{getattr(found, '__qualname__', '?')}, "
            f"which is not allowed; if you trust it: 'trusted_targets=[{home.split('.')[0]}]'"
        )
    if not isinstance(found, type) and not _under(home, trusted):
        # a function of ours could do more than build an object, and configs travel
        raise UserError(f"{_at(where)}{target} is no class; only objects are built")
    return found


def _collect(node: Any, where: str, trusted: Sequence[str], refused: list[str]) -> None:
    if isinstance(node, Mapping):
        if "_target_" in node:
            target = node["_target_"]
            if not isinstance(target, str) or not all(
                part.isidentifier() and not part.startswith("_") for part in target.split(".")
            ):
                refused.append(f"{_at(where)}_target_ {target!r} is no dotted public name")
            elif target not in NAMED_TARGETS and not _under(target, (*OWN_PARTS, *trusted)):
                top = target.split(".")[0]
                hint = (
                    "it is no part of a model, a data source or a training"
                    if top == "spinevl"
                    else f"if you trust it, add 'trusted_targets=[{top}]' to the command"
                )
                refused.append(f"{_at(where)}_target_ {target} is not allowed; {hint}")
        for key, value in node.items():
            _collect(value, f"{where}.{key}" if where else str(key), trusted, refused)
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            _collect(value, f"{where}[{index}]", trusted, refused)


def _build(node: Any, where: str, trusted: Sequence[str], extra: Mapping[str, Any]) -> Any:
    if isinstance(node, (list, tuple)):
        return [_build(v, f"{where}[{i}]", trusted, {}) for i, v in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    built = {
        key: _build(value, f"{where}.{key}" if where else str(key), trusted, {})
        for key, value in node.items()
        if key not in _SPECIAL and key not in extra
    }
    if "_target_" not in node:
        return built
    name = MOVED.get(node["_target_"]) or str(node["_target_"])
    target = resolve(name, trusted=trusted, where=where)
    args = _build(node.get("_args_", []), where, trusted, {})
    arguments = {**built, **extra}
    partial = bool(node.get("_partial_", False))
    bind(target, args, arguments, partial=partial, where=where, name=name)
    if partial:
        return functools.partial(target, *args, **arguments)
    try:
        return target(*args, **arguments)
    except ValueError as error:
        raise UserError(f"{_at(where)}{error}") from error


def bind(
    target: Callable[..., Any],
    args: Sequence[Any],
    arguments: Mapping[str, Any],
    *,
    partial: bool,
    where: str,
    name: str,
) -> None:
    """Refuse arguments that the target's signature does not take, naming those it does."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # some C callables have none
        return
    takes = ", ".join(p for p in signature.parameters if not p.startswith("_"))
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    unknown = [a for a in arguments if a not in signature.parameters and not open_ended]
    if unknown:
        raise UserError(f"{_at(where)}{name} does not take {', '.join(unknown)}; it takes {takes}")
    try:
        (signature.bind_partial if partial else signature.bind)(*args, **arguments)
    except TypeError as error:
        raise UserError(f"{_at(where)}{name}: {error}; it takes {takes}") from error


def _under(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def _at(where: str) -> str:
    return f"{where}: " if where else ""
