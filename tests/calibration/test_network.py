from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from models.export import export_network
from models.multi_exit import MultiExitNetwork, auxiliary_loss
from models.residual import ResidualConfig, residual_network
from models.runtime import open_session


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


def test_a_stage_without_head_is_refused() -> None:
    with pytest.raises(ValueError, match="2 stages, 1 heads"):
        MultiExitNetwork([nn.Identity(), nn.Identity()], [nn.Identity()])


def test_export_equals_torch_at_any_batch() -> None:
    torch.manual_seed(0)
    network = residual_network(ResidualConfig(channels=8, stages=3)).eval()
    backbone = export_network(network, torch.rand(2, 1, 32, 32))
    assert backbone.carries == (("carry1",), ("carry2",))
    assert [o.name for o in backbone.model.graph.output] == [f"exit{k}_logits" for k in (1, 2, 3)]
    session = open_session(backbone.model.SerializeToString())
    for batch in (1, 2, 5):
        images = torch.rand(batch, 1, 32, 32)
        with torch.no_grad():
            expected, _ = network(images)
        found = session.run(None, {"image": images.numpy()})
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other.numpy(), atol=1e-4)
