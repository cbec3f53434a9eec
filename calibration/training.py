"""Trains a multi-exit network with auxiliary losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from calibration.data import Dataset
from models.multi_exit import MultiExitNetwork, auxiliary_loss
from models.residual import ResidualConfig, residual_network

if TYPE_CHECKING:
    from rich.progress import Progress


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained (AdamW under a one-cycle learning rate)."""

    epochs: int = 8
    batch: int = 128
    peak_learning_rate: float = 4e-3
    weight_decay: float = 0.02
    exit_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    seed: int = 0


def train_network(
    data: Dataset, config: TrainingConfig, progress: Progress, network: ResidualConfig | None = None
) -> MultiExitNetwork:
    """Train a residual network from scratch on images float32 (n, C, 32, 32)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = residual_network(network)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        _fit(model, data, config, progress)
    model.eval()
    return model


def _fit(
    model: MultiExitNetwork, data: Dataset, config: TrainingConfig, progress: Progress
) -> None:
    images = torch.from_numpy(data.inputs).contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(data.labels).float()
    steps = config.epochs * -(-len(data) // config.batch)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.peak_learning_rate, total_steps=steps, pct_start=0.2
    )
    task = progress.add_task("train", total=steps)
    model.train()
    for _ in range(config.epochs):
        for rows in torch.split(torch.randperm(len(data)), config.batch):
            logits, _ = model(images[rows])  # K x (batch, labels)
            loss = auxiliary_loss(logits, labels[rows], config.exit_weights)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            progress.update(task, advance=1, description=f"train, loss {loss.item():.3f}")
