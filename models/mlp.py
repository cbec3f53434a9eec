"""A residual multilayer perceptron for rows of numbers, with an exit at every block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from models.multi_exit import MultiExitNetwork

Norm = Literal["layer", "batch"]


@dataclass(frozen=True)
class MlpConfig:
    """Shape of the network: every block ends in an exit."""

    features: int
    labels: int
    width: int = 256  # of the carry
    blocks: int = 4
    norm: Norm = "layer"
    dropout: float = 0.5  # inside the blocks


class ResidualLayer(nn.Module):
    """A normalised two-layer perceptron added to its input."""

    def __init__(self, width: int, norm: Norm, dropout: float) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.LayerNorm(width) if norm == "layer" else nn.BatchNorm1d(width),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
        )

    def forward(self, carry: Tensor) -> Tensor:
        """(batch, width) -> (batch, width)."""
        changed: Tensor = carry + self.residual(carry)
        return changed


def mlp_network(config: MlpConfig) -> MultiExitNetwork:
    """Build the network with fresh weights from torch's global generator.

    Its one input is (batch, features); every head is linear.
    """
    blocks: list[nn.Module] = [
        ResidualLayer(config.width, config.norm, config.dropout) for _ in range(config.blocks)
    ]
    first = nn.Sequential(nn.Linear(config.features, config.width), blocks[0])
    heads = [nn.Linear(config.width, config.labels) for _ in range(config.blocks)]
    return MultiExitNetwork([first, *blocks[1:]], heads)
