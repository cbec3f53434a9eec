"""Trains the heads (students) of all candidate layers from the feature cache, in one run."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calibration.head_options import HeadOptions
from models.errors import CalibrationError
from models.heads import HeadLayers
from models.machine import available_cores

if TYPE_CHECKING:
    from rich.progress import Progress


def train_heads(
    features: Sequence[np.ndarray],
    rows: np.ndarray,
    labels: np.ndarray,
    teacher: np.ndarray | None,
    options: HeadOptions,
    progress: Progress,
) -> list[HeadLayers]:
    """One head per layer.

    Parameters
    ----------
    features : per layer float16 (n, C), of which only `rows` are read
    rows : int (m,), the fit split
    labels : bool (m, L), of those rows
    teacher : float (m, L), probabilities of those rows to distil, or None
    """
    targets = torch.from_numpy(labels.astype(np.float32))
    if teacher is not None:
        soft = torch.from_numpy(teacher.astype(np.float32))
        targets = (1 - options.distill) * targets + options.distill * soft
    task = progress.add_task("heads", total=len(features))

    def train(feature: np.ndarray) -> HeadLayers:
        head = _train_head(np.asarray(feature[rows]), targets, options)
        progress.advance(task)
        return head

    # one layer a core: the products are too small for several cores to share
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(available_cores(), "head", torch.set_num_threads, (1,)) as lanes:
            return list(lanes.map(train, features))
    finally:
        torch.set_num_threads(threads)


def _train_head(feature: np.ndarray, targets: Tensor, options: HeadOptions) -> HeadLayers:
    """Feature float16 (m, C), targets (m, L) in [0, 1]."""
    random = torch.Generator().manual_seed(options.seed)  # every layer's head starts alike
    mean, scale = _standard(feature)
    values = torch.from_numpy(feature)
    order = torch.randperm(len(values), generator=random)
    held_out = max(1, int(options.held_out * len(order)))
    network = _network(values.shape[1], targets.shape[1], options, random)
    optimizer = torch.optim.AdamW(
        network.parameters(), options.learning_rate, weight_decay=options.weight_decay
    )

    def loss_of(rows: Tensor) -> Tensor:
        standard = (values[rows].float() - mean) / scale  # (b, C)
        return F.binary_cross_entropy_with_logits(network(standard), targets[rows])

    best, best_loss, waited = _copy(network), float("inf"), 0
    for _ in range(options.max_epochs):
        network.train()
        fit = order[held_out:][torch.randperm(len(order) - held_out, generator=random)]
        for rows in torch.split(fit, options.batch):
            optimizer.zero_grad()
            loss_of(rows).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        network.eval()
        with torch.no_grad():
            loss = float(loss_of(order[:held_out]))
        if not np.isfinite(loss):
            raise CalibrationError(
                "the training of a head diverged: its loss is not finite; are the features of "
                "this model finite for this data?"
            )
        if loss < best_loss - 1e-5:
            best, best_loss, waited = _copy(network), loss, 0
        else:
            waited += 1
            if waited >= options.patience:
                break
    return _layers(best, mean, scale)


def _standard(feature: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every column, over a part of the rows."""
    sample = torch.from_numpy(feature[:: max(1, len(feature) // 20_000)]).float()
    deviation = sample.std(0, correction=0)
    return sample.mean(0), torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))


class _Dropout(nn.Module):
    """Dropout from a generator of its own: layers are trained side by side."""

    def __init__(self, share: float, random: torch.Generator) -> None:
        super().__init__()
        self._keep = 1 - share
        self._random = random

    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return values
        kept = torch.rand(values.shape, generator=self._random) < self._keep
        return values * kept / self._keep


def _network(
    width: int, labels: int, options: HeadOptions, random: torch.Generator
) -> nn.Sequential:
    sizes = [width, options.hidden, labels] if options.hidden else [width, labels]
    parts: list[nn.Module] = []
    for before, after in pairwise(sizes):
        linear = nn.Linear(before, after)
        bound = before**-0.5  # as torch draws them, but from the generator
        nn.init.uniform_(linear.weight, -bound, bound, generator=random)
        nn.init.uniform_(linear.bias, -bound, bound, generator=random)
        parts += [linear, nn.ReLU(), _Dropout(options.dropout, random)]
    return nn.Sequential(*parts[:-2])


def _copy(network: nn.Sequential) -> list[tuple[Tensor, Tensor]]:
    linears = [module for module in network if isinstance(module, nn.Linear)]
    return [(m.weight.detach().clone(), m.bias.detach().clone()) for m in linears]


def _layers(linears: list[tuple[Tensor, Tensor]], mean: Tensor, scale: Tensor) -> HeadLayers:
    """The standardisation goes into the first layer, in double precision."""
    (weight, bias), *rest = linears
    folded = weight.double() / scale.double()  # (out, C)
    shifted = bias.double() - folded @ mean.double()
    pairs = [(folded, shifted), *rest]
    return HeadLayers(
        tuple(w.T.contiguous().float().numpy() for w, _ in pairs),
        tuple(b.float().numpy() for _, b in pairs),
    )
