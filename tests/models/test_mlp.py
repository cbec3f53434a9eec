from __future__ import annotations

import numpy as np
import pytest
import torch

from models.export import export_network
from models.mlp import MlpConfig, Norm, mlp_network
from models.multi_exit import auxiliary_loss
from models.preprocessing import TensorSpec
from models.runtime import open_session

INPUTS = (TensorSpec(name="numbers", row_shape=(7,)),)


def config(norm: Norm = "layer", dropout: float = 0.5) -> MlpConfig:
    return MlpConfig(features=7, labels=3, width=16, blocks=3, norm=norm, dropout=dropout)


def test_every_block_has_an_exit() -> None:
    network = mlp_network(config())
    logits, carries = network(torch.rand(4, 7))
    assert [tuple(of_exit.shape) for of_exit in logits] == [(4, 3)] * 3
    assert [tuple(carry.shape) for (carry,) in carries] == [(4, 16)] * 2


def test_blocks_add_to_their_input() -> None:
    network = mlp_network(config()).eval()
    with torch.no_grad():
        network.stages[1].residual[-1].weight.zero_()
        network.stages[1].residual[-1].bias.zero_()
        _, ((first,), (second,)) = network(torch.rand(4, 7))
    torch.testing.assert_close(first, second)


def test_dropout_is_on_while_training_only() -> None:
    network = mlp_network(config())
    rows = torch.rand(4, 7)
    assert not torch.equal(network(rows)[0][-1], network(rows)[0][-1])
    network.eval()
    assert torch.equal(network(rows)[0][-1], network(rows)[0][-1])


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_it_learns(norm: Norm) -> None:
    torch.manual_seed(0)
    rows = torch.randn(200, 7)
    labels = (rows @ torch.randn(7, 3) > 0).float()
    network = mlp_network(config(norm, dropout=0.0))
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = auxiliary_loss(network(rows)[0], labels, (1, 1, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_export_equals_torch_at_any_batch(norm: Norm) -> None:
    torch.manual_seed(0)
    network = mlp_network(config(norm))
    network(torch.randn(64, 7) * 3 + 1)  # batch norm has statistics now
    backbone = export_network(network, (torch.rand(2, 7),), INPUTS)
    assert backbone.carries == (("carry1",), ("carry2",))
    session = open_session(backbone.model.SerializeToString())
    for batch in (1, 2, 5):
        rows = torch.randn(batch, 7)
        with torch.no_grad():
            expected, _ = network(rows)
        found = session.run(None, {"numbers": rows.numpy()})
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other.numpy(), atol=1e-4)
