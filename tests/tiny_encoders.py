"""Text encoders of several families, written as Hugging Face directories in their smallest form."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

WIDTH, LAYERS, MAX_TOKENS = 16, 3, 40
WORDS = tuple(f"w{number}" for number in range(20))
SHAPE = {
    "vocab_size": 32,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "initializer_range": 0.3,
}


def config_of(family: str) -> transformers.PretrainedConfig:
    """Positions for MAX_TOKENS tokens; RoBERTa's and MPNet's begin behind padding token 1."""
    if family == "distilbert":
        return transformers.DistilBertConfig(
            vocab_size=32,
            dim=WIDTH,
            n_layers=LAYERS,
            n_heads=2,
            hidden_dim=24,
            max_position_embeddings=MAX_TOKENS,
            initializer_range=0.3,
        )
    behind = 2 if family in {"roberta", "mpnet"} else 0
    padding = {"pad_token_id": 1} if behind else {}
    return transformers.AutoConfig.for_model(
        family, **SHAPE, max_position_embeddings=MAX_TOKENS + behind, **padding
    )


def write_encoder(directory: Path, family: str = "bert") -> Path:
    """Weights, and a tokenizer of words."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.AutoModel.from_config(config_of(family)).save_pretrained(directory)
    words = ("[PAD]", "[PAD1]", "[CLS]", "[SEP]", "[UNK]", *WORDS)
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory
