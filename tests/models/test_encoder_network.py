from __future__ import annotations

from itertools import combinations

import numpy as np
import onnx
import pytest
import torch
import transformers
from torch import Tensor

from models.backbone import Backbone
from models.encoder_network import encoder_network
from models.errors import CalibrationError
from models.export import export_network
from models.graph import split_graph
from models.heads import output_name
from models.multi_exit import MultiExitNetwork
from models.preprocessing import TensorSpec
from models.runtime import open_session
from tests.tiny_encoders import LAYERS, WIDTH, config_of

FAMILIES = ("bert", "distilbert", "roberta", "mpnet")
LABELS = 5
INPUTS = tuple(
    TensorSpec(name=name, dtype="int64", row_shape=(None,))
    for name in ("input_ids", "attention_mask")
)


def make_encoder(family: str) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    return transformers.AutoModel.from_config(config_of(family)).eval()


def make_rows(batch: int, tokens: int, pad: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids and mask; every second row ends in padding."""
    ids = torch.randint(4, 32, (batch, tokens))
    mask = torch.ones_like(ids)
    mask[1::2, tokens // 2 + 1 :] = 0
    return torch.where(mask > 0, ids, pad), mask


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def network(family: str) -> MultiExitNetwork:
    return encoder_network(make_encoder(family), LABELS)


@pytest.fixture(scope="module")
def backbone(network: MultiExitNetwork) -> Backbone:
    return export_network(network, make_rows(2, 8), INPUTS)


def test_stages_give_the_hidden_states_of_the_library(
    family: str, network: MultiExitNetwork
) -> None:
    encoder = make_encoder(family)
    ids, mask = make_rows(4, 11, encoder.config.pad_token_id)
    with torch.no_grad():
        _, carries = network.eval()(ids, mask)
        expected = encoder(
            input_ids=ids, attention_mask=mask, output_hidden_states=True
        ).hidden_states
    assert len(carries) == LAYERS - 1
    for (hidden, carried_mask), states in zip(carries, expected[1:-1], strict=True):
        assert carried_mask is mask
        torch.testing.assert_close(hidden[mask > 0], states[mask > 0], atol=1e-5, rtol=0)


def test_heads_do_not_see_the_padding(network: MultiExitNetwork) -> None:
    ids, mask = make_rows(2, 8)
    other_ids = torch.where(mask > 0, ids, 7)
    with torch.no_grad():
        for one, other in zip(
            network.eval()(ids, mask)[0], network(other_ids, mask)[0], strict=True
        ):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("tokens", [3, 8, 17])
def test_export_equals_torch_at_any_batch_and_length(
    network: MultiExitNetwork, backbone: Backbone, batch: int, tokens: int
) -> None:
    ids, mask = make_rows(batch, tokens)
    with torch.no_grad():
        expected, _ = network.eval()(ids, mask)
    session = open_session(backbone.model.SerializeToString())
    found = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=1e-4)


def test_only_the_hidden_states_and_the_mask_cross_a_cut(backbone: Backbone) -> None:
    assert backbone.carries == tuple((f"carry{k}", "attention_mask") for k in range(1, LAYERS))
    assert backbone.inputs == INPUTS


def split(backbone: Backbone) -> list[onnx.ModelProto]:
    logits = [[output_name(k, "logits")] for k in range(1, LAYERS + 1)]
    return split_graph(backbone.model, backbone.carries, logits)


def test_stages_in_a_chain_equal_the_whole(network: MultiExitNetwork, backbone: Backbone) -> None:
    ids, mask = make_rows(3, 9)
    with torch.no_grad():
        expected, _ = network.eval()(ids, mask)
    carry = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    for stage, logits in zip(split(backbone), expected, strict=True):
        session = open_session(stage.SerializeToString())
        names = [value.name for value in session.get_outputs()]
        found = dict(zip(names, session.run(names, carry), strict=True))
        np.testing.assert_allclose(found.pop(names[0]), logits.numpy(), atol=1e-4)
        carry = {"attention_mask": mask.numpy(), **found}


def test_every_weight_lies_in_one_stage(family: str, backbone: Backbone) -> None:
    weights = [
        {t.name for t in stage.graph.initializer if np.prod(t.dims) >= WIDTH * WIDTH}
        for stage in split(backbone)
    ]
    assert all(weights)
    assert all(not one & other for one, other in combinations(weights, 2))


def test_every_layer_and_head_is_trained(network: MultiExitNetwork) -> None:
    network.train().zero_grad()
    logits, _ = network(*make_rows(2, 6))
    torch.stack(logits).sum().backward()
    assert all(head.linear.weight.grad.abs().sum() > 0 for head in network.heads)
    for stage in network.stages:
        assert all(weight.grad is not None for weight in stage.parameters())


@pytest.mark.parametrize(
    "config",
    [
        # projects its embeddings before the first layer
        transformers.ElectraConfig(
            vocab_size=32, embedding_size=8, hidden_size=16, num_hidden_layers=2,
            num_attention_heads=2, intermediate_size=24,
        ),
        # shares the weights of its layers
        transformers.AlbertConfig(
            vocab_size=32, embedding_size=8, hidden_size=16, num_hidden_layers=2,
            num_attention_heads=2, intermediate_size=24,
        ),
        transformers.GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=32),
        # looks at the tokens before it only
        transformers.BertConfig(
            vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=24, is_decoder=True, initializer_range=0.3,
        ),
    ],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_a_model_that_is_not_built_like_bert_is_refused(
    config: transformers.PretrainedConfig,
) -> None:
    encoder = transformers.AutoModel.from_config(config).eval()
    with pytest.raises(CalibrationError, match=f"'{config.model_type}' is not built like BERT"):
        encoder_network(encoder, LABELS)
