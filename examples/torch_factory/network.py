"""A small residual network for grey images of 16 x 32 pixels, made by a factory function."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LABELS = 10
CHANNELS = 32
BLOCKS = 4
PATCH = 4  # pixels that the first convolution makes one place of: 4 x 8 places are left


class Block(nn.Module):
    """Two convolutions added to their input."""

    def __init__(self) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False),
            nn.BatchNorm2d(CHANNELS),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False),
            nn.BatchNorm2d(CHANNELS),
        )

    def forward(self, carry: Tensor) -> Tensor:
        """(batch, CHANNELS, H, W) -> the same."""
        return torch.relu(carry + self.change(carry))


class PairNetwork(nn.Module):
    """(batch, 1, 16, 32), 0 (paper) to 1 (ink) -> logits (batch, LABELS)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(
            nn.Conv2d(1, CHANNELS, PATCH, stride=PATCH, bias=False),
            nn.BatchNorm2d(CHANNELS),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.head = nn.Linear(CHANNELS, LABELS)

    def forward(self, image: Tensor) -> Tensor:
        carry = self.blocks(self.enter(image))  # (batch, CHANNELS, 4, 8)
        return self.head(carry.amax((2, 3)))


def factory() -> PairNetwork:
    """A fresh network, for `offramp calibrate --model examples.torch_factory.network:factory`."""
    return PairNetwork()
