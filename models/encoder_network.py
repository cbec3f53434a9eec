"""A pretrained text encoder as a multi-exit network, with an exit at every layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.errors import CalibrationError
from models.multi_exit import MultiExitNetwork

TOLERANCE = 1e-4  # between the stages' last hidden state and the library's own


class TokenHead(nn.Module):
    """Linear head on a sequence pooled by the mean over real tokens, beside the first token."""

    def __init__(self, width: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(2 * width, labels)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(batch, T, C), (batch, T) -> logits (batch, labels)."""
        weights = mask.to(hidden.dtype)[:, :, None]  # (batch, T, 1)
        mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)  # (batch, C)
        pooled = torch.cat([mean, hidden[:, 0]], dim=1)  # (batch, 2 C)
        logits: Tensor = self.linear(self.dropout(pooled))
        return logits


class EncoderLayer(nn.Module):
    """One layer of the encoder; the mask travels with the hidden states.

    Parameters
    ----------
    layer : takes hidden states (batch, T, C) and an additive mask (batch, 1, 1, T)
    position_bias : makes what MPNet adds to its attention scores from the hidden states' shape
    """

    def __init__(self, layer: nn.Module, position_bias: PositionBias | None) -> None:
        super().__init__()
        self.layer = layer
        self.position_bias = position_bias

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, T, C), (batch, T) -> the same shapes."""
        lowest = torch.finfo(hidden.dtype).min
        additive = (1 - mask.to(hidden.dtype))[:, None, None, :] * lowest  # (batch, 1, 1, T)
        extra = {} if self.position_bias is None else {"position_bias": self.position_bias(hidden)}
        given = self.layer(hidden, additive, **extra)
        return (given[0] if isinstance(given, tuple) else given), mask


class FirstLayers(nn.Module):
    """Embeddings, then the first layer."""

    def __init__(self, embeddings: nn.Module, layer: EncoderLayer) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.layer = layer

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, T) twice, both int64 -> (batch, T, C), (batch, T)."""
        given: tuple[Tensor, Tensor] = self.layer(self.embeddings(ids), mask)
        return given


class PositionBias(nn.Module):
    """MPNet's relative position bias, (1, heads, T, T); every layer reads the same small table."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.table = encoder.relative_attention_bias
        self._bucket = encoder.relative_position_bucket

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, T, C) -> (1, heads, T, T)."""
        positions = torch.arange(hidden.shape[1], device=hidden.device)
        bucket = self._bucket(positions[None, :] - positions[:, None])  # (T, T)
        bias: Tensor = self.table(bucket).permute(2, 0, 1)[None]
        return bias


def encoder_network(encoder: Any, labels: int, dropout: float = 0.1) -> MultiExitNetwork:
    """Part a text encoder into its layers, with a new head from torch's global generator on each.

    Its inputs are `input_ids` and `attention_mask`, int64 (batch, T).

    Parameters
    ----------
    encoder : the library's model in evaluation mode; its layers become the network's own
    dropout : before the heads

    Raises
    ------
    CalibrationError
        When the encoder is not built like BERT.
    """
    layers = _layers(encoder)
    heads = [TokenHead(encoder.config.hidden_size, labels, dropout) for _ in layers]
    network = MultiExitNetwork([FirstLayers(encoder.embeddings, layers[0]), *layers[1:]], heads)
    _check_equal(network, encoder)
    return network


def _layers(encoder: Any) -> list[EncoderLayer]:
    inner = getattr(encoder, "encoder", None) or getattr(encoder, "transformer", None)
    layers = getattr(inner, "layer", None)
    if not isinstance(layers, nn.ModuleList) or not hasattr(encoder, "embeddings"):
        raise _not_like_bert(encoder)
    bias = PositionBias(inner) if hasattr(inner, "relative_attention_bias") else None
    return [EncoderLayer(layer, bias) for layer in layers]


def _check_equal(network: MultiExitNetwork, encoder: Any) -> None:
    """Refuse a model whose layers, one after the other, are not the whole model."""
    ids = torch.arange(16).remainder(encoder.config.vocab_size).view(2, 8)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    carry = (ids, mask)
    try:
        with torch.no_grad():
            for stage in network.stages:
                carry = stage(*carry)
            expected = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        equal = torch.allclose(carry[0][mask > 0], expected[mask > 0], atol=TOLERANCE)
    except (TypeError, AttributeError, RuntimeError) as error:
        raise _not_like_bert(encoder) from error
    if not equal:
        raise _not_like_bert(encoder)


def _not_like_bert(encoder: Any) -> CalibrationError:
    return CalibrationError(
        f"a model of type {encoder.config.model_type!r} is not built like BERT: expected "
        "embeddings, then layers that pass on one hidden state, as in BERT, RoBERTa, DistilBERT "
        "and MPNet; export it to ONNX and calibrate that instead"
    )
