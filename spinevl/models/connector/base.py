"""The interface of connectors: how many visual tokens an image becomes."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from spinevl.build.roles import role


@role("connector")
class Connector(nn.Module, ABC):
    """features [U, N, in_dim] -> visual tokens [U, tokens, out_dim].

    Besides its own arguments its constructor gets the sizes of the encoder and the LLM: ``in_dim``
    (width of a feature), ``out_dim`` (width of the LLM), ``in_tokens`` (N) and ``in_grid`` (their
    layout, see Encoder.grid). It raises ValueError for a grid that it cannot take.

    Attributes:
        tokens: visual tokens an image becomes.
    """

    tokens: int

    def unreached(self) -> list[nn.Module | nn.Parameter]:
        """What its forward pass leaves out, see Encoder."""
        return []

    @abstractmethod
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features [U, N, in_dim] -> [U, tokens, out_dim]."""
