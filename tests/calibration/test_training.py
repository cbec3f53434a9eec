from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.progress import Progress
from torch import Tensor

from calibration.checkpoint import Checkpoint, CheckpointFile
from calibration.dataset import from_arrays
from calibration.encoded_rows import EncodedRows
from calibration.training import TrainedNetwork, TrainingRows, train_network
from calibration.training_config import TrainingConfig
from models.encoders import open_encoder
from models.errors import CalibrationError
from models.mlp import MlpConfig, mlp_network
from models.multi_exit import MultiExitNetwork
from models.preprocessing import NumberPreprocessing, TensorSpec
from models.residual import ResidualConfig, residual_network

QUIET = Progress(disable=True)
CONFIG = TrainingConfig(epochs=4, batch=32, peak_learning_rate=1e-2, schedule="joint")


def make_rows(shape: tuple[int, ...] = (6,), rows: int = 240, noise: float = 0.0) -> TrainingRows:
    """Three labels, each a linear function of the numbers' sign pattern."""
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(rows, *shape)).astype(np.float32)
    scores = numbers.reshape(rows, -1) @ rng.normal(size=(numbers[0].size, 3))
    labels = scores / scores.std() + noise * rng.normal(size=scores.shape) > 0
    data = from_arrays(numbers, labels, ("a", "b", "c"))
    encoder = open_encoder(NumberPreprocessing(), (TensorSpec(name="x", row_shape=shape),), {})
    watched = rows // 5
    return TrainingRows(
        EncodedRows(data, np.arange(watched, rows), encoder),
        EncodedRows(data, np.arange(watched), encoder),
    )


def make_mlp(dropout: float = 0.2) -> MultiExitNetwork:
    torch.manual_seed(1)
    return mlp_network(MlpConfig(6, 3, width=24, blocks=3, dropout=dropout))


def make_resnet() -> MultiExitNetwork:
    torch.manual_seed(1)
    return residual_network(
        ResidualConfig(3, 1, 16, 16, stem_channels=4, channels=6, stages=3, blocks_per_stage=1)
    )


def state(network: MultiExitNetwork) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(
    before: dict[str, Tensor], now: MultiExitNetwork | dict[str, Tensor], prefix: str
) -> bool:
    """Whether any weight or statistic under `prefix` is another one."""
    after = now if isinstance(now, dict) else now.state_dict()
    return any(not torch.equal(before[k], after[k]) for k in before if k.startswith(prefix))


def train(
    network: MultiExitNetwork, config: TrainingConfig, rows: TrainingRows | None = None
) -> TrainedNetwork:
    return train_network(network, rows or make_rows(), config, QUIET)


@pytest.mark.parametrize("schedule", ["mixed", "joint", "backbone"])
def test_every_exit_learns(schedule: Any) -> None:
    trained = train(make_mlp(), replace(CONFIG, epochs=12, schedule=schedule))
    first, last = trained.epochs[0], trained.epochs[-1]
    assert len(last.exits) == 3
    for before, after in zip(first.exits, last.exits, strict=True):
        assert after.loss < 0.7 * before.loss
        assert after.micro_f1 > 0.85
        assert after.w_labels < before.w_labels
        assert after.w_labels_sliced < before.w_labels_sliced
    assert trained.best_epoch == last.epoch == 12


def test_images_are_learnt() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((300, 3)) < 0.4
    images = rng.random((300, 1, 16, 16), np.float32)
    for label, shape in enumerate([(1, 12), (12, 1), (4, 4)]):  # a bar, a column, a square
        for row in np.flatnonzero(labels[:, label]):
            top, left = (rng.integers(0, 17 - side) for side in shape)
            images[row, 0, top : top + shape[0], left : left + shape[1]] += 2
    data = from_arrays(images, labels, ("bar", "column", "square"))
    spec = TensorSpec(name="image", row_shape=(1, 16, 16))
    encoder = open_encoder(NumberPreprocessing(), (spec,), {})
    parts = [EncodedRows(data, rows, encoder) for rows in (np.arange(240), np.arange(240, 300))]
    trained = train(make_resnet(), replace(CONFIG, epochs=25), TrainingRows(*parts))
    assert trained.epochs[-1].train_loss < 0.5 * trained.epochs[0].train_loss
    assert min(state.micro_f1 for state in trained.epochs[-1].exits) > 0.8


def test_the_network_comes_back_ready_to_export() -> None:
    network = train(make_mlp(), replace(CONFIG, schedule="backbone")).network
    assert not network.training
    assert all(weight.requires_grad for weight in network.parameters())


def test_the_backbone_phase_leaves_the_auxiliary_heads_alone() -> None:
    network = make_mlp()
    before = state(network)
    config = replace(CONFIG, schedule="mixed", epochs=2, weight_decay=0.5)
    seen: dict[int, dict[str, Tensor]] = {}

    class Spy(CheckpointFile):
        def write(self, checkpoint: Checkpoint) -> None:
            seen[len(checkpoint.epochs)] = state(network)

    trained = train_network(network, make_rows(), config, QUIET, Spy(Path("unused"), {}))
    assert [epoch.phase for epoch in trained.epochs] == ["backbone", "joint"]
    network.load_state_dict(seen[1])
    assert not changed(before, network, "heads.0.")
    assert not changed(before, network, "heads.1.")
    assert changed(before, network, "heads.2.")
    assert changed(before, network, "stages.0.")
    network.load_state_dict(seen[2])
    assert changed(before, network, "heads.0.")


def test_the_heads_phase_leaves_the_rest_alone() -> None:
    network = make_resnet()
    config = replace(CONFIG, schedule="backbone", epochs=2)
    after_backbone: dict[str, Tensor] = {}

    class Spy(CheckpointFile):
        def write(self, checkpoint: Checkpoint) -> None:
            if len(checkpoint.epochs) == 1:
                after_backbone.update(state(network))

    rows = make_rows((1, 16, 16), rows=120)
    trained = train_network(network, rows, config, QUIET, Spy(Path("unused"), {}))
    assert [epoch.phase for epoch in trained.epochs] == ["backbone", "heads"]
    assert not changed(after_backbone, network, "stages.")  # batch norm's statistics included
    assert not changed(after_backbone, network, "heads.2.")
    assert changed(after_backbone, network, "heads.0.")
    assert changed(after_backbone, network, "heads.1.")
    assert trained.epochs[0].exits[-1] == trained.epochs[1].exits[-1]


def test_a_phase_starts_with_moments_of_none() -> None:
    steps = []

    class Spy(CheckpointFile):
        def write(self, checkpoint: Checkpoint) -> None:
            steps.append(checkpoint.optimizer["state"][0]["step"].item())

    config = replace(CONFIG, schedule="mixed", epochs=4)
    train_network(make_mlp(), make_rows(), config, QUIET, Spy(Path("unused"), {}))
    assert steps == [6, 12, 6, 12]  # 192 rows in batches of 32


def test_aux_weight_0_trains_the_last_exit_alone() -> None:
    network = make_mlp()
    before = state(network)
    train(network, replace(CONFIG, aux_weight=0.0))
    assert not changed(before, network, "heads.0.")
    assert not changed(before, network, "heads.1.")
    assert changed(before, network, "heads.2.")


def test_one_weight_per_exit() -> None:
    network = make_mlp()
    before = state(network)
    train(network, replace(CONFIG, aux_weight=(0.0, 0.5, 1.0)))
    assert not changed(before, network, "heads.0.")
    assert changed(before, network, "heads.1.")


def test_heads_may_learn_faster_than_the_stages() -> None:
    def moved(rate: float, prefix: str) -> float:
        network = make_mlp(dropout=0.0)
        before = state(network)
        train(network, replace(CONFIG, epochs=1, peak_learning_rate=1e-4, head_rate=rate))
        after = network.state_dict()
        return max(
            float((after[k] - before[k]).abs().max()) for k in before if k.startswith(prefix)
        )

    assert moved(10.0, "heads") > 5 * moved(1.0, "heads")
    assert moved(10.0, "stages") < 2 * moved(1.0, "stages")


def test_the_seed_decides_the_result() -> None:
    def weight(seed: int) -> Tensor:
        return train(make_mlp(), replace(CONFIG, epochs=1, seed=seed)).network.heads[-1].weight

    assert torch.equal(weight(1), weight(1))
    assert not torch.equal(weight(1), weight(2))


def test_the_global_generator_is_left_as_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    rows, network = make_rows(), mlp_network(MlpConfig(6, 3))
    torch.manual_seed(5)
    train(network, replace(CONFIG, epochs=1), rows)
    assert torch.equal(torch.rand(3), expected)


class Interrupted(Exception):
    """Raised as a killed process would end: after a checkpoint was written."""


class InterruptingFile(CheckpointFile):
    def __init__(self, path: Path, epoch: int) -> None:
        super().__init__(path, {})
        self.epoch = epoch

    def write(self, checkpoint: Checkpoint) -> None:
        super().write(checkpoint)
        if len(checkpoint.epochs) == self.epoch:
            raise Interrupted


@pytest.mark.parametrize(
    ("make_network", "shape", "changes"),
    [
        (make_mlp, (6,), {}),
        (make_mlp, (6,), {"schedule": "mixed", "patience": 1}),
        (make_mlp, (6,), {"schedule": "backbone"}),
        (make_resnet, (1, 16, 16), {"schedule": "mixed"}),
    ],
)
@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_resumed_equals_uninterrupted(
    tmp_path: Path, make_network: Any, shape: tuple[int, ...], changes: dict[str, Any], epoch: int
) -> None:
    config = replace(CONFIG, **changes)
    rows = make_rows(shape, rows=120)
    through = train(make_network(), config, rows)
    path = tmp_path / "run.pt"
    epoch = min(epoch, len(through.epochs))
    with pytest.raises(Interrupted):
        train_network(make_network(), rows, config, QUIET, InterruptingFile(path, epoch))
    torch.manual_seed(99)
    file = CheckpointFile(path, {})
    resumed = train_network(make_network(), rows, config, QUIET, file, resume=True)
    assert resumed.epochs == through.epochs
    assert resumed.best_epoch == through.best_epoch
    for name, weight in through.network.state_dict().items():
        assert torch.equal(weight, resumed.network.state_dict()[name]), name


def test_a_resumed_training_knows_its_best_epoch(tmp_path: Path) -> None:
    rows = make_rows(rows=100, noise=3.0)
    config = replace(CONFIG, epochs=60, patience=3, schedule="mixed")
    through = train(make_mlp(), config, rows)
    assert through.best_epoch == len(through.epochs) - 3
    path = tmp_path / "run.pt"
    late = InterruptingFile(path, through.best_epoch + 1)
    with pytest.raises(Interrupted):
        train_network(make_mlp(), rows, config, QUIET, late)
    file = CheckpointFile(path, {})
    resumed = train_network(make_mlp(), rows, config, QUIET, file, resume=True)
    assert resumed.epochs == through.epochs
    for name, weight in through.network.state_dict().items():
        assert torch.equal(weight, resumed.network.state_dict()[name]), name


def test_patience_stops_and_keeps_the_best_epoch() -> None:
    rows = make_rows(rows=100, noise=3.0)  # mostly noise: soon nothing is left to learn
    config = replace(CONFIG, epochs=60, patience=3)
    trained = train(make_mlp(dropout=0.0), config, rows)
    losses = [epoch.held_out_loss((1, 1, 1)) for epoch in trained.epochs]
    assert len(losses) < 60
    assert trained.best_epoch == int(np.argmin(losses)) + 1 == len(losses) - 3
    (batch,) = rows.held_out.in_order(100)
    with torch.no_grad():
        logits, _ = trained.network(torch.from_numpy(batch.tensors[0]))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[0], torch.from_numpy(batch.labels)
    )
    assert loss.item() == pytest.approx(trained.epochs[trained.best_epoch - 1].exits[0].loss)


def test_patience_ends_each_phase_by_itself() -> None:
    config = replace(CONFIG, epochs=80, patience=2, schedule="mixed")
    trained = train(make_mlp(dropout=0.0), config, make_rows(rows=100, noise=3.0))
    phases = [epoch.phase for epoch in trained.epochs]
    assert 2 < phases.count("backbone") < 40
    assert 2 < phases.count("joint") < 40
    assert trained.epochs[trained.best_epoch - 1].phase == "joint"


def test_a_phase_starts_from_the_best_epoch_of_the_one_before() -> None:
    seen = []

    class Spy(CheckpointFile):
        def write(self, checkpoint: Checkpoint) -> None:
            seen.append({name: value.clone() for name, value in checkpoint.weights.items()})

    config = replace(CONFIG, epochs=80, patience=2, schedule="backbone")
    rows = make_rows(rows=100, noise=3.0)
    network = make_mlp(dropout=0.0)
    trained = train_network(network, rows, config, QUIET, Spy(Path("unused"), {}))
    losses = [e.exits[-1].loss for e in trained.epochs if e.phase == "backbone"]
    best = int(np.argmin(losses))
    assert best == len(losses) - 3
    assert not changed(seen[best], network, "stages.")
    assert changed(seen[len(losses) - 1], seen[best], "stages.")


def test_cuda_without_a_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CalibrationError, match=r"--device cuda: torch .* finds no CUDA device"):
        train(make_mlp(), replace(CONFIG, device="cuda"))


@pytest.mark.parametrize("rate", [1e6, 1e20])
def test_a_training_that_diverges_says_so(rate: float) -> None:
    with pytest.raises(CalibrationError, match=r"diverged in epoch 1: .* lower the learning rate"):
        train(make_resnet(), replace(CONFIG, peak_learning_rate=rate), make_rows((1, 16, 16), 60))


def test_weights_of_another_number_of_exits_are_refused_at_once() -> None:
    with pytest.raises(CalibrationError, match="2 weights, but the network has 3 exits"):
        train(make_mlp(), replace(CONFIG, aux_weight=(1.0, 1.0)))
