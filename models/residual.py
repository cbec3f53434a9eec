"""A small residual network for images of any size from 16x16 on, with an exit at every stage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.errors import CalibrationError
from models.multi_exit import MultiExitNetwork, PooledHead

SMALLEST_SIDE = 16
LAST_MAP = 8  # pixels: the shorter side is halved until the deepest feature map is about this wide


@dataclass(frozen=True)
class ResidualConfig:
    """Shape of the network: every stage ends in an exit."""

    labels: int = 10
    image_channels: int = 1
    height: int = 32
    width: int = 32
    stem_channels: int = 16  # the stem halves the resolution
    channels: int = 32  # the first block halves it again; later halvings double the channels
    stages: int = 4
    blocks_per_stage: int = 2

    def __post_init__(self) -> None:
        if min(self.height, self.width) < SMALLEST_SIDE:
            raise CalibrationError(
                f"images of {self.height}x{self.width} pixels are too small for the residual "
                f"network: expected at least {SMALLEST_SIDE}x{SMALLEST_SIDE}; enlarge them"
            )

    @property
    def halvings(self) -> int:
        """How often the resolution is halved: twice up to 32 pixels, once more per doubling."""
        wanted = math.floor(math.log2(min(self.height, self.width) / LAST_MAP))
        return min(max(wanted, 2), self.stages + 1)

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of every stage's carry."""
        doublings = self.halvings - 2  # at the first blocks of stages 2, 3, ...
        return tuple(self.channels * 2 ** min(stage, doublings) for stage in range(self.stages))


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
    channels = config.stage_channels
    stages = [_first_stage(config)]
    for before, after in pairwise(channels):
        stride = 2 if after > before else 1
        stages.append(_stage(ResidualBlock(before, after, stride), after, config))
    return MultiExitNetwork(stages, [PooledHead(width, config.labels) for width in channels])


def _first_stage(config: ResidualConfig) -> nn.Sequential:
    stem = nn.Sequential(
        nn.Conv2d(config.image_channels, config.stem_channels, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(config.stem_channels),
        nn.ReLU(),
    )
    first = ResidualBlock(config.stem_channels, config.channels, stride=2)
    return nn.Sequential(stem, *_stage(first, config.channels, config))


def _stage(first: ResidualBlock, channels: int, config: ResidualConfig) -> nn.Sequential:
    more = (ResidualBlock(channels, channels) for _ in range(config.blocks_per_stage - 1))
    return nn.Sequential(first, *more)
