"""A Hugging Face directory becomes a source; nothing is downloaded and none of its code is run."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.graph_source import source_from_graph
from calibration.huggingface_inputs import image_preprocessing, text_preprocessing
from calibration.huggingface_library import (
    broadcast_masks,
    cannot_load,
    import_library,
    load_model,
    quiet,
)
from calibration.source import Source
from models.errors import CalibrationError
from models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

EXAMPLE_ROWS = 2  # the exporter takes sizes of 0 and 1 for constants
EXAMPLE_TOKENS = 16
HEADS = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForImageClassification": "AutoModelForImageClassification",
}
"""Ending of the architecture's name -> the class that loads it with its head."""


@dataclass(frozen=True)
class _Inputs:
    """What the model reads.

    examples : input name -> tensor, in the order of the graph's inputs
    axes : dynamic dimensions of every input
    """

    examples: dict[str, Tensor]
    axes: dict[int, str]
    preprocessing: Preprocessing
    files: dict[str, bytes]


def open_huggingface(directory: Path, labels: int, has_head: bool | None = None) -> Source:
    """Open a directory as written by `save_pretrained`: texts or images, encoders only.

    Its classification head is used where it has one of L labels; otherwise the source ends at the
    last hidden state. Attention is exported in its plain form ("eager"): the graph is smaller than
    that of the fused form, at least as fast in ONNX Runtime, and every family has it.

    Parameters
    ----------
    directory : config.json and model.safetensors, with tokenizer.json or preprocessor_config.json
    labels : L, the labels of the data
    has_head : False: leave a head out even where it fits; True: refuse a model without one

    Raises
    ------
    CalibrationError
        When transformers is not installed, a file is missing or cannot be used, or a head is asked
        for that is not there.
    GraphError
        When the model cannot be exported.
    """
    transformers = import_library()
    from calibration.torch_export import export_module

    config = _read_config(transformers, directory)
    loader, notes = choose_loader(config, labels, has_head)
    with quiet(transformers), broadcast_masks():
        module = load_model(transformers, loader, directory, attn_implementation="eager")
        inputs = _describe_inputs(transformers, module, config, directory)
        headed = loader in HEADS.values()
        model = export_module(
            module,
            inputs.examples,
            {name: inputs.axes for name in inputs.examples},
            "logits" if headed else "last_hidden_state",
            by_name=True,
        )
    facts = {
        "format": "huggingface",
        "directory": directory.resolve().name,
        "class": type(module).__name__,
        "transformers": transformers.__version__,
    }
    source = source_from_graph(model, labels, None, headed, facts)
    return replace(
        source,
        preprocessing=inputs.preprocessing,
        files=inputs.files,
        names=label_names(config) if headed else None,
        facts=source.facts | ({"notes": notes} if notes else {}),
    )


def _read_config(transformers: Any, directory: Path) -> Any:
    weights = [
        *directory.glob("model.safetensors"),
        *directory.glob("model.safetensors.index.json"),
    ]
    if not weights:
        raise CalibrationError(
            f"{directory} has no model.safetensors, expected the weights in safetensors format: "
            "convert older files with transformers.AutoModel.from_pretrained(directory)"
            ".save_pretrained(directory), where their origin is trusted"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and others
        raise cannot_load(directory, error) from error
    if config.is_encoder_decoder or getattr(config, "is_decoder", False):
        raise CalibrationError(
            f"{directory} holds a {config.model_type} model that generates, expected an encoder: "
            "fine-tune its encoder for classification, or export that to ONNX"
        )
    return config


def choose_loader(config: Any, labels: int, has_head: bool | None) -> tuple[str, list[str]]:
    """Name of the library's class that loads the model, and notes for the manifest.

    Raises
    ------
    CalibrationError
        When a head is asked for that the model does not have.
    """
    architecture = (config.architectures or ["of no named architecture"])[0]
    loader = next((HEADS[end] for end in HEADS if architecture.endswith(end)), None)
    fits = loader is not None and config.num_labels == labels
    if loader is not None and fits and has_head is not False:
        single = config.problem_type == "single_label_classification"
        note = "the head was trained for one label per row; its logits are read as one label each"
        return loader, [note] if single else []
    found = f"{architecture} with {config.num_labels} labels" if loader else architecture
    if has_head:
        raise CalibrationError(
            f"the model is {found}, expected a classification head for the data's {labels} labels: "
            "calibrate with the labels that it was trained on, or say --no-head to train heads on "
            "its hidden states"
        )
    return "AutoModel", [f"the head of {found} was left out"] if loader else []


def _describe_inputs(transformers: Any, module: nn.Module, config: Any, directory: Path) -> _Inputs:
    """Texts or images, by the model's first input."""
    import torch

    kind = getattr(module, "main_input_name", None)
    if kind == "input_ids":
        preprocessing, files = text_preprocessing(
            directory, _positions(module, config), getattr(config, "pad_token_id", None)
        )
        tokens = min(EXAMPLE_TOKENS, preprocessing.max_tokens)
        ids = torch.arange(EXAMPLE_ROWS * tokens).reshape(EXAMPLE_ROWS, tokens) % config.vocab_size
        mask = torch.ones_like(ids)
        mask[1:, tokens // 2 :] = 0
        examples = {"input_ids": ids, "attention_mask": mask}
        reads = inspect.signature(module.forward).parameters
        if "token_type_ids" in reads and getattr(config, "type_vocab_size", 0) > 1:
            examples["token_type_ids"] = torch.zeros_like(ids)
        return _Inputs(examples, {0: "batch", 1: "tokens"}, preprocessing, files)
    if kind == "pixel_values":
        channels = getattr(config, "num_channels", 3)
        image = image_preprocessing(
            transformers, directory, channels, getattr(config, "image_size", None)
        )
        shape = (EXAMPLE_ROWS, channels, image.height, image.width)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return _Inputs({"pixel_values": noise}, {0: "batch"}, image, {})
    raise CalibrationError(
        f"the {config.model_type} model in {directory} reads {kind!r}, expected texts (input_ids) "
        "or images (pixel_values): export others to ONNX"
    )


def _positions(module: nn.Module, config: Any) -> int | None:
    """The most tokens that the model has positions for; RoBERTa's begin behind the padding id."""
    from torch import nn

    for name, part in module.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding):
            begin = 0 if part.padding_idx is None else part.padding_idx + 1
            return part.num_embeddings - begin
    return getattr(config, "max_position_embeddings", None)


def label_names(config: Any) -> tuple[str, ...] | None:
    """Names of the labels in their order; None where they are only numbered, LABEL_0 and so on."""
    names = tuple(str(config.id2label[number]) for number in range(config.num_labels))
    unnamed = tuple(f"LABEL_{number}" for number in range(config.num_labels))
    return None if names == unnamed else names
