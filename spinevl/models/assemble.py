"""Build a model from config nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from spinevl.build.build import build
from spinevl.config.options import TuningOptions
from spinevl.models.connector.base import Connector
from spinevl.models.encoder.base import Encoder
from spinevl.models.llm import CausalLM
from spinevl.models.merge import merge_adapters
from spinevl.models.tuning import apply_tuning, tuning_options
from spinevl.models.vlm import VLM
from spinevl.schema.errors import UserError
from spinevl.schema.image_ref import Modality

Nodes = Mapping[str, Any]


def assemble(parts: Nodes, *, trusted: Sequence[str] = ()) -> VLM:
    """A model from the nodes ``encoder``, ``connector``, ``llm`` and ``tuning``.

    ``encoder3d`` and ``connector3d`` beside them add a vision branch for volumes. Sizes are asked
    from the parts: a connector gets its widths from them and has no setting for them.

    Raises:
        UserError: a node that is no such part, or parts that are not compatible.
    """
    encoder = _part(parts["encoder"], Encoder, trusted, where="encoder")
    llm = _part(parts["llm"], CausalLM, trusted, where="llm")
    connector = _connector(parts, "", encoder, llm.dim, trusted)
    second: dict[str, Any] = {}
    if parts.get("encoder3d"):
        encoder3d = _part(parts["encoder3d"], Encoder, trusted, where="encoder3d")
        if (encoder.modality, encoder3d.modality) != ("image", "image3d"):
            raise UserError(
                f"encoder3d: encoder reads {encoder.modality} and encoder3d reads "
                f"{encoder3d.modality}; expected image and image3d"
            )
        connector3d = _connector(parts, "3d", encoder3d, llm.dim, trusted)
        second = {"encoder3d": encoder3d, "connector3d": connector3d}
    return tuned(VLM(encoder, connector, llm, **second), parts["tuning"])


def check_compatible(
    parts: Nodes, *, shows: Modality | None = None, trusted: Sequence[str] = ()
) -> None:
    """Raise UserError where encoder and connector, or encoder and data, are not compatible.

    The parts are built without weights or memory, so that an error is reported before any image
    is read. What cannot be built that way is left for ``assemble`` to judge.

    Args:
        parts: see assemble.
        shows: the modality of the data; some encoder must read it.
        trusted: see assemble.
    """
    modalities: list[Modality] = []
    for suffix in ("", "3d"):
        node = parts.get(f"encoder{suffix}")
        if not node:
            continue
        bare = {**node, "pretrained": False} if "pretrained" in node else node
        try:
            with torch.device("meta"):
                encoder = _part(bare, Encoder, trusted, where=f"encoder{suffix}")
                modalities.append(encoder.modality)
                _connector(parts, suffix, encoder, encoder.dim, trusted)
        except (NotImplementedError, RuntimeError, TypeError):
            return
    if shows and shows not in modalities:
        raise UserError(
            f"encoder: it reads <{modalities[0]}>, and the data show <{shows}>; choose an encoder "
            f"that reads <{shows}> (docs/model_zoo.md)"
        )


def tuned(model: VLM, tuning: TuningOptions | Nodes) -> VLM:
    """The model with ``tuning`` applied, in place; adapters that it has are merged first."""
    merge_adapters(model)
    options = tuning if isinstance(tuning, TuningOptions) else tuning_options(tuning)
    apply_tuning(model, options)
    return model


def _part(node: Any, kind: type[Any], trusted: Sequence[str], *, where: str) -> Any:
    """The part that a node describes, which must be of its kind."""
    part = build(node, trusted=trusted)
    if not isinstance(part, kind):
        raise UserError(f"{where}: {node['_target_']} is no {kind.__name__}")
    return part


def _connector(
    parts: Nodes, suffix: str, encoder: Encoder, out_dim: int, trusted: Sequence[str]
) -> Connector:
    """The connector behind an encoder; for volumes ``connector`` where no ``connector3d`` is."""
    node = parts.get(f"connector{suffix}") or parts["connector"]
    sizes = {"in_dim": encoder.dim, "in_tokens": encoder.tokens, "in_grid": encoder.grid}
    try:
        connector: Connector = build(node, trusted=trusted)(out_dim=out_dim, **sizes)
    except (ValueError, TypeError) as error:
        raise UserError(f"connector{suffix}: {error}") from error
    return connector
