"""The training of a multi-exit network with auxiliary losses, epoch by epoch."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from calibration.checkpoint import Checkpoint, CheckpointFile
from calibration.encoded_rows import Batch, EncodedRows
from calibration.epoch_profile import EpochProfile, as_records, from_records, profile_epoch
from calibration.training_config import Phase, TrainingConfig
from models.errors import CalibrationError
from models.multi_exit import MultiExitNetwork, auxiliary_loss

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass(frozen=True)
class TrainingRows:
    """The two parts of the fit split: rows to train on, and rows to watch."""

    train: EncodedRows
    held_out: EncodedRows


@dataclass(frozen=True)
class TrainedNetwork:
    """A network in evaluation mode on the CPU, and how it came to be.

    epochs : profiles of all epochs that ran
    best_epoch : the epoch whose weights it has
    """

    network: MultiExitNetwork
    epochs: tuple[EpochProfile, ...]
    best_epoch: int


def train_network(
    network: MultiExitNetwork,
    rows: TrainingRows,
    config: TrainingConfig,
    progress: Progress,
    checkpoint: CheckpointFile | None = None,
    resume: bool = False,
) -> TrainedNetwork:
    """Train `network` in place.

    On the CPU, the same arguments give the same weights, whether the training ran through or was
    resumed after any epoch.

    Parameters
    ----------
    network : with fresh or pretrained weights
    checkpoint : written after every epoch
    resume : go on after the epoch in `checkpoint`

    Raises
    ------
    CalibrationError
        When the device is not there, the weights given for the exits do not fit the network, the
        checkpoint is of another training, or the loss is no longer finite.
    """
    device = check_training(config, network.depth)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        training = _Training(network, rows, config, device)
        if resume and checkpoint:
            training.restore(checkpoint.read())
        training.run(progress, checkpoint)
        return training.finished()


def check_training(config: TrainingConfig, depth: int) -> torch.device:
    """Give the device to train on.

    Parameters
    ----------
    depth : the network's exits

    Raises
    ------
    CalibrationError
        When it is not there, or the weights given for the exits do not fit the network.
    """
    for phase, _ in config.phases:
        config.phase_weights(phase, depth)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise CalibrationError(
            f"--device cuda: torch {torch.__version__} finds no CUDA device; train with --device "
            "cpu, or install a torch built for CUDA and check `nvidia-smi`"
        )
    return torch.device(config.device)


class _Training:
    """The state of one training between its epochs."""

    def __init__(
        self,
        network: MultiExitNetwork,
        rows: TrainingRows,
        config: TrainingConfig,
        device: torch.device,
    ) -> None:
        self._config = config
        self._rows = rows
        self._device = device
        # convolutions on the CPU are a third faster in this layout; other weights do not care
        self._network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": list(network.stages.parameters()), "rate": 1.0},
                {"params": list(network.heads.parameters()), "rate": config.head_rate},
            ],
            weight_decay=config.weight_decay,
            fused=True,  # on the CPU too: a step of a text encoder's embeddings is 4 times faster
        )
        self._epochs: list[EpochProfile] = []
        self._best_weights: dict[str, Tensor] | None = None

    def run(self, progress: Progress, checkpoint: CheckpointFile | None) -> None:
        """All epochs that are left."""
        rows = len(self._rows.train)
        total = self._config.epochs * rows
        task = progress.add_task("train", total=total, completed=len(self._epochs) * rows)
        while (phase := self._next_phase()) is not None:
            if not self._of(phase):
                self._enter_phase()
            epoch = len(self._epochs) + 1
            loss = self._train_epoch(epoch, phase, progress, task)
            self._epochs.append(self._profile(epoch, phase, loss))
            if self._config.patience is not None and self._best(phase).epoch == epoch:
                self._best_weights = copy.deepcopy(self._network.state_dict())
            if not progress.disable:
                progress.console.print(self._epochs[-1].line(), highlight=False)
            if checkpoint:
                checkpoint.write(self._checkpoint())
        progress.update(task, completed=total)

    def finished(self) -> TrainedNetwork:
        """The network with the weights to keep."""
        if self._best_weights is not None:
            self._network.load_state_dict(self._best_weights)
        self._network.requires_grad_(True)
        best = self._best(self._epochs[-1].phase)
        return TrainedNetwork(self._network.cpu().eval(), tuple(self._epochs), best.epoch)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Be where the training was that wrote `checkpoint`."""
        self._epochs = from_records(checkpoint.epochs)
        self._network.load_state_dict(checkpoint.weights)
        self._best_weights = checkpoint.best_weights
        self._optimizer.load_state_dict(checkpoint.optimizer)
        torch.set_rng_state(checkpoint.generators["cpu"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(checkpoint.generators["cuda"])

    def _checkpoint(self) -> Checkpoint:
        generators = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state()
        return Checkpoint(
            epochs=as_records(self._epochs),
            weights=self._network.state_dict(),
            best_weights=self._best_weights,
            optimizer=self._optimizer.state_dict(),
            generators=generators,
        )

    def _of(self, phase: Phase) -> list[EpochProfile]:
        return [epoch for epoch in self._epochs if epoch.phase == phase]

    def _next_phase(self) -> Phase | None:
        """The phase of the next epoch, which follows from the epochs done; None: all is done."""
        patience = self._config.patience
        for phase, epochs in self._config.phases:
            done = self._of(phase)
            waited = done[-1].epoch - self._best(phase).epoch if done else 0
            if len(done) < epochs and (patience is None or waited < patience):
                return phase
        return None

    def _best(self, phase: Phase) -> EpochProfile:
        """The epoch whose weights are kept of a phase: without patience, the last one."""
        done = self._of(phase)
        if self._config.patience is None:
            return done[-1]
        weights = self._config.phase_weights(phase, self._network.depth)
        return min(done, key=lambda epoch: epoch.held_out_loss(weights))

    def _enter_phase(self) -> None:
        """Start from the best weights of the phase before, with moments of none."""
        if self._best_weights is not None:
            self._network.load_state_dict(self._best_weights)
        self._best_weights = None
        self._optimizer.state.clear()

    def _train_epoch(self, epoch: int, phase: Phase, progress: Progress, task: TaskID) -> float:
        """Mean weighted loss over the rows."""
        weights = self._config.phase_weights(phase, self._network.depth)
        self._freeze(phase)
        # the order of the rows depends on seed and epoch alone, so that it needs no state
        rng = np.random.default_rng((self._config.seed, epoch))
        total, seen = 0.0, 0
        for batch in self._rows.train.shuffled(self._config.batch, rng):
            done = len(self._of(phase)) + seen / len(self._rows.train)
            self._set_learning_rate(done / dict(self._config.phases)[phase])
            inputs, labels = self._on_device(batch)
            logits, _ = self._network(*inputs)  # K x (b, L)
            loss = auxiliary_loss(logits, labels, weights)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            value = loss.item()
            if not math.isfinite(value):
                raise self._diverged(epoch)
            total, seen = total + value * len(batch), seen + len(batch)
            progress.update(task, advance=len(batch), description=f"train, loss {value:.3f}")
        return total / seen

    def _freeze(self, phase: Phase) -> None:
        """Stages that are not trained get no gradients and keep their batch statistics too.

        Heads need nothing: those whose loss has weight 0 get no gradient.
        """
        self._network.train().requires_grad_(True)
        if phase == "heads":
            self._network.stages.eval().requires_grad_(False)

    def _set_learning_rate(self, done: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.learning_rate(done) * group["rate"]

    def _diverged(self, epoch: int) -> CalibrationError:
        return CalibrationError(
            f"the training diverged in epoch {epoch}: the loss is not finite; lower the learning "
            f"rate, which is {self._config.peak_learning_rate} at its peak"
        )

    def _profile(self, epoch: int, phase: Phase, train_loss: float) -> EpochProfile:
        self._network.eval()
        parts, labels = [], []
        with torch.no_grad():
            for batch in self._rows.held_out.in_order(self._config.batch):
                inputs, _ = self._on_device(batch)
                logits, _ = self._network(*inputs)
                parts.append([of_exit.cpu().numpy() for of_exit in logits])
                labels.append(batch.labels > 0)
        by_exit = [np.concatenate(of_exit) for of_exit in zip(*parts, strict=True)]  # K x (n, L)
        truth = np.concatenate(labels)
        if not np.isfinite(by_exit).all():
            raise self._diverged(epoch)
        return profile_epoch(epoch, phase, train_loss, by_exit, truth, self._config.seed)

    def _on_device(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        inputs = [torch.from_numpy(tensor).to(self._device) for tensor in batch.tensors]
        return inputs, torch.from_numpy(batch.labels).to(self._device)
