"""Build a model from config nodes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import torch

from spinevl.build.build import build
from spinevl.build.trust import NOTHING, Trust
from spinevl.config.options import TuningOptions
from spinevl.models.connector.base import Connector
from spinevl.models.encoder.base import Encoder
from spinevl.models.held import Held
from spinevl.models.llm import CausalLM
from spinevl.models.merge import merge_adapters
from spinevl.models.quantized import check_quantization, quantize_nf4
from spinevl.models.tuning import apply_tuning, tuning_options
from spinevl.models.vlm import VLM
from spinevl.schema.errors import UserError
from spinevl.schema.image_ref import Modality

Nodes = Mapping[str, Any]
R = TypeVar("R")


class Build(Protocol):
    """``build`` or ``build_stored``, told what the command line trusts."""

    def __call__(self, node: Any, role: type[R], *, where: str = "", **sizes: Any) -> R:
        """See ``build``."""


def assemble(parts: Nodes, *, build: Build = build, held: Held | None = None) -> VLM:
    """A model from the nodes ``encoder``, ``connector``, ``llm`` and ``tuning``.

    ``encoder3d`` and ``connector3d`` beside them add a vision branch for volumes. Sizes are asked
    from the parts: a connector is told its widths, never configured with them.

    Args:
        parts: the nodes.
        build: how an object is built from a node: ``build`` for a config, ``build_stored`` for a
            checkpoint.
        held: how weights are held.

    Raises:
        UserError: a node that is no such part, or parts that are not compatible.
    """
    held = held or Held()

    def dtype_of(part: str) -> dict[str, Any]:
        dtype = held.dtype(part, parts[part], parts["tuning"])
        return {} if dtype is None else {"dtype": dtype}

    encoder = build(parts["encoder"], Encoder, where="encoder", **dtype_of("encoder"))
    llm = build(parts["llm"], CausalLM, where="llm", **dtype_of("llm"))
    connector = _connector(build, parts, "", encoder, llm.dim)
    second: dict[str, Any] = {}
    if parts.get("encoder3d"):
        encoder3d = build(parts["encoder3d"], Encoder, where="encoder3d", **dtype_of("encoder3d"))
        if (encoder.modality, encoder3d.modality) != ("image", "image3d"):
            raise UserError(
                f"encoder3d: encoder reads {encoder.modality} and encoder3d reads "
                f"{encoder3d.modality}; expected image and image3d"
            )
        connector3d = _connector(build, parts, "3d", encoder3d, llm.dim)
        second = {"encoder3d": encoder3d, "connector3d": connector3d}
    return tuned(VLM(encoder, connector, llm, **second), parts["tuning"])


def check_compatible(
    parts: Nodes, *, shows: Modality | None = None, trust: Trust = NOTHING
) -> None:
    """Raise UserError where encoder and connector, or encoder and data, are not compatible.

    The parts are built without weights or memory, so that an error is reported before any image
    is read. What cannot be built that way is left for ``assemble`` to judge.

    Args:
        parts: see assemble.
        shows: the modality of the data; some encoder must read it.
        trust: what the command line trusts.
    """
    made = functools.partial(build, trust=trust)
    modalities: list[Modality] = []
    for suffix in ("", "3d"):
        node = parts.get(f"encoder{suffix}")
        if not node:
            continue
        bare = {**node, "pretrained": False} if "pretrained" in node else node
        try:
            with torch.device("meta"):
                encoder = made(bare, Encoder, where=f"encoder{suffix}")
                modalities.append(encoder.modality)
                _connector(made, parts, suffix, encoder, encoder.dim)
        except (NotImplementedError, RuntimeError, TypeError):
            return
    if shows and shows not in modalities:
        raise UserError(
            f"encoder: it reads <{modalities[0]}>, and the data show <{shows}>; choose an encoder "
            f"that reads <{shows}> (docs/model_zoo.md)"
        )


def tuned(model: VLM, tuning: TuningOptions | Nodes) -> VLM:
    """The model with ``tuning`` applied, in place; adapters that it has are merged first.

    Raises:
        UserError: see apply_tuning and check_quantization.
    """
    merge_adapters(model)
    options = tuning if isinstance(tuning, TuningOptions) else tuning_options(tuning)
    check_quantization({"quantize": model.llm.quantize}, options.llm)
    if model.llm.quantize:
        quantize_nf4(model.llm.model)
    apply_tuning(model, options)
    return model


def _connector(
    build: Build, parts: Nodes, suffix: str, encoder: Encoder, out_dim: int
) -> Connector:
    """The connector behind an encoder; for volumes ``connector`` where no ``connector3d`` is."""
    return build(
        parts.get(f"connector{suffix}") or parts["connector"],
        Connector,
        where=f"connector{suffix}",
        in_dim=encoder.dim,
        out_dim=out_dim,
        in_tokens=encoder.tokens,
        in_grid=encoder.grid,
    )
