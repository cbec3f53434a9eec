"""A multi-exit network in torch: stages with a head at each exit, and its auxiliary loss.

Knows nothing of what the stages compute. Used offline only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
    stages : K modules; each takes the carry of the one before it (the first: the input)
    heads : K modules from a carry to logits (batch, labels)
    """

    def __init__(self, stages: Sequence[nn.Module], heads: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(stages) != len(heads):
            raise ValueError(
                f"every stage needs one head: {len(stages)} stages, {len(heads)} heads"
            )
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(heads)

    def forward(self, inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return K logits (batch, labels) and the K - 1 carries between the stages."""
        logits, carries = [], []
        carry = inputs
        for stage, head in zip(self.stages, self.heads, strict=True):
            carry = stage(carry)
            carries.append(carry)
            logits.append(head(carry))
        return logits, carries[:-1]


def auxiliary_loss(logits: Sequence[Tensor], labels: Tensor, weights: Sequence[float]) -> Tensor:
    """Sum over exits of weight times binary cross-entropy (mean over rows and labels).

    Parameters
    ----------
    logits : K tensors (batch, labels)
    labels : float (batch, labels), multi-hot
    weights : K weights, one per exit
    """
    losses = [
        weight * F.binary_cross_entropy_with_logits(exit_logits, labels)
        for exit_logits, weight in zip(logits, weights, strict=True)
    ]
    return torch.stack(losses).sum()
