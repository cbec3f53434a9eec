from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.errors import CalibrationError
from models.export import export_network
from models.multi_exit import MultiExitNetwork, auxiliary_loss
from models.preprocessing import TensorSpec
from models.residual import ResidualConfig, residual_network
from models.runtime import open_session


def image(*shape: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="image", row_shape=shape),)


def test_auxiliary_loss_is_the_weighted_sum_over_exits() -> None:
    logits = [torch.zeros(4, 3), torch.full((4, 3), 100.0)]
    loss = auxiliary_loss(logits, torch.ones(4, 3), weights=(0.5, 2.0))
    assert loss.item() == pytest.approx(0.5 * np.log(2))


def test_every_exit_is_trained() -> None:
    network = residual_network(ResidualConfig(channels=4, stem_channels=4))
    logits, carries = network(torch.rand(2, 1, 32, 32))
    auxiliary_loss(logits, torch.ones(2, 10), (1, 1, 1, 1)).backward()
    assert len(carries) == 3
    assert all(head.linear.weight.grad.abs().sum() > 0 for head in network.heads)


def test_an_exit_of_weight_0_gets_no_gradient() -> None:
    network = residual_network(ResidualConfig(channels=4, stem_channels=4))
    logits, _ = network(torch.rand(2, 1, 32, 32))
    auxiliary_loss(logits, torch.ones(2, 10), (0, 1, 0, 1)).backward()
    trained = [head.linear.weight.grad is not None for head in network.heads]
    assert trained == [False, True, False, True]


def test_a_stage_without_head_is_refused() -> None:
    with pytest.raises(ValueError, match="2 stages, 1 heads"):
        MultiExitNetwork([nn.Identity(), nn.Identity()], [nn.Identity()])


def test_export_equals_torch_at_any_batch() -> None:
    torch.manual_seed(0)
    network = residual_network(ResidualConfig(channels=8, stages=3)).eval()
    backbone = export_network(network, (torch.rand(2, 1, 32, 32),), image(1, 32, 32))
    assert backbone.carries == (("carry1",), ("carry2",))
    assert backbone.inputs == image(1, 32, 32)
    assert [o.name for o in backbone.model.graph.output] == [f"exit{k}_logits" for k in (1, 2, 3)]
    session = open_session(backbone.model.SerializeToString())
    for batch in (1, 2, 5):
        images = torch.rand(batch, 1, 32, 32)
        with torch.no_grad():
            expected, _ = network(images)
        found = session.run(None, {"image": images.numpy()})
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other.numpy(), atol=1e-4)


def test_the_default_network_is_that_of_the_digits() -> None:
    assert ResidualConfig().stage_channels == (32, 32, 32, 32)
    _, carries = residual_network()(torch.rand(2, 1, 32, 32))
    assert [tuple(carry.shape[1:]) for (carry,) in carries] == [(32, 8, 8)] * 3


@pytest.mark.parametrize(
    ("size", "last_map", "last_channels"),
    [
        ((16, 16), (4, 4), 4),
        ((20, 31), (5, 8), 4),
        ((64, 96), (8, 12), 8),
        ((256, 300), (8, 10), 32),
    ],
)
def test_larger_images_are_halved_more_often(
    size: tuple[int, int], last_map: tuple[int, int], last_channels: int
) -> None:
    config = ResidualConfig(2, 3, *size, stem_channels=4, channels=4, blocks_per_stage=1)
    network = residual_network(config).eval()
    carry: Tensor = torch.rand(1, 3, *size)
    with torch.no_grad():
        for stage in network.stages:
            carry = stage(carry)
        assert network.heads[-1](carry).shape == (1, 2)
    assert tuple(carry.shape[1:]) == (last_channels, *last_map)


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(CalibrationError, match=r"8x40 pixels .* at least 16x16"):
        ResidualConfig(height=8, width=40)


class Fork(nn.Module):
    """Two tensors cross; the second input is handed on."""

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return first * 2, first + 1, second


class Join(nn.Module):
    def forward(self, first: Tensor, other: Tensor, second: Tensor) -> Tensor:
        return first + other + second


class Negative(nn.Module):
    def forward(self, *carry: Tensor) -> Tensor:
        return -carry[0]


def test_several_tensors_may_cross_a_cut() -> None:
    network = MultiExitNetwork([Fork(), Join()], [Negative(), Negative()])
    inputs = tuple(TensorSpec(name=name, row_shape=(3,)) for name in ("first", "second"))
    backbone = export_network(network, (torch.rand(2, 3), torch.rand(2, 3)), inputs)
    assert backbone.carries == (("carry1_1", "carry1_2", "second"),)
    rows = [np.random.default_rng(k).random((5, 3), np.float32) for k in (0, 1)]
    session = open_session(backbone.model.SerializeToString())
    found = session.run(["exit2_logits"], dict(zip(("first", "second"), rows, strict=True)))
    np.testing.assert_allclose(-found[0], 3 * rows[0] + 1 + rows[1], rtol=1e-6)
