"""A small residual network with four exits for single-channel 32x32 images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.multi_exit import MultiExitNetwork, PooledHead


@dataclass(frozen=True)
class ResidualConfig:
    """Shape of the network: every stage ends in an exit."""

    labels: int = 10
    image_channels: int = 1
    stem_channels: int = 16  # the stem halves the resolution
    channels: int = 32  # the first block halves it again; all further blocks keep it
    stages: int = 4
    blocks_per_stage: int = 2


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a skip connection (He et al., CVPR 2016, basic block)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.skip = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, carry: Tensor) -> Tensor:
        """(batch, C, H, W) -> (batch, C', H / stride, W / stride)."""
        return torch.relu(self.residual(carry) + self.skip(carry))


def residual_network(config: ResidualConfig | None = None) -> MultiExitNetwork:
    """Build the network with fresh weights from torch's global generator."""
    config = config or ResidualConfig()
    stages = []
    for number in range(config.stages):
        blocks: list[nn.Module] = []
        if number == 0:
            blocks += [
                _stem(config),
                ResidualBlock(config.stem_channels, config.channels, stride=2),
            ]
        while sum(isinstance(block, ResidualBlock) for block in blocks) < config.blocks_per_stage:
            blocks.append(ResidualBlock(config.channels, config.channels))
        stages.append(nn.Sequential(*blocks))
    heads = [PooledHead(config.channels, config.labels) for _ in range(config.stages)]
    return MultiExitNetwork(stages, heads)


def _stem(config: ResidualConfig) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(config.image_channels, config.stem_channels, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(config.stem_channels),
        nn.ReLU(),
    )
