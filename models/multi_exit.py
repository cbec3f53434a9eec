"""A multi-exit network in torch: stages with a head at each exit, and its auxiliary loss.

Knows nothing of what the stages compute. Used offline only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Carry = tuple[Tensor, ...]
"""The tensors that cross a cut, all with the batch as dimension 0."""


class PooledHead(nn.Module):
    """Linear head on a feature map pooled by maximum and mean."""

    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * channels, labels)

    def forward(self, carry: Tensor) -> Tensor:
        """(batch, C, H, W) -> logits (batch, labels)."""
        pooled = torch.cat([carry.amax((2, 3)), carry.mean((2, 3))], dim=1)  # (batch, 2 C)
        logits: Tensor = self.linear(pooled)
        return logits


class MultiExitNetwork(nn.Module):
    """Stages run one after another; the head of exit k reads the carry of stage k.

    Parameters
    ----------
    stages : K modules; each takes the tensors of the carry before it (the first: the inputs) and
        gives its own carry, one tensor or a tuple. An input that deeper stages need is handed on
        as it came: the same tensor object
    heads : K modules from the tensors of a carry to logits (batch, labels)
    """

    def __init__(self, stages: Sequence[nn.Module], heads: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(stages) != len(heads):
            raise ValueError(
                f"every stage needs one head: {len(stages)} stages, {len(heads)} heads"
            )
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(heads)

    @property
    def depth(self) -> int:
        """Number of exits K."""
        return len(self.stages)

    def forward(self, *inputs: Tensor) -> tuple[list[Tensor], list[Carry]]:
        """Return K logits (batch, labels) and the K - 1 carries between the stages."""
        logits: list[Tensor] = []
        carries: list[Carry] = []
        carry: Carry = inputs
        for stage, head in zip(self.stages, self.heads, strict=True):
            given = stage(*carry)
            carry = given if isinstance(given, tuple) else (given,)
            carries.append(carry)
            logits.append(head(*carry))
        return logits, carries[:-1]


def auxiliary_loss(logits: Sequence[Tensor], labels: Tensor, weights: Sequence[float]) -> Tensor:
    """Sum over exits of weight times binary cross-entropy (mean over rows and labels).

    Exits of weight 0 are left out: their heads get no gradient at all, not one of zeros, which an
    optimizer with weight decay would still act upon.

    Parameters
    ----------
    logits : K tensors (batch, labels)
    labels : float (batch, labels), multi-hot
    weights : K weights, one per exit, not all zero
    """
    losses = [
        weight * F.binary_cross_entropy_with_logits(exit_logits, labels)
        for exit_logits, weight in zip(logits, weights, strict=True)
        if weight
    ]
    return torch.stack(losses).sum()
