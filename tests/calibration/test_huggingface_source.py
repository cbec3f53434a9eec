from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.efficientnet.image_processing_pil_efficientnet import (
    EfficientNetImageProcessorPil,
)
from transformers.models.mobilevit.image_processing_pil_mobilevit import MobileViTImageProcessorPil
from transformers.models.poolformer.image_processing_pil_poolformer import (
    PoolFormerImageProcessorPil,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from calibration.huggingface_inputs import image_preprocessing
from calibration.huggingface_source import choose_loader, label_names, open_huggingface
from calibration.source import Source
from calibration.sources import open_source
from models.cuts import find_cuts
from models.encoders import open_encoder
from models.errors import CalibrationError
from models.preprocessing import ImagePreprocessing, TensorSpec, TextPreprocessing
from models.runtime import open_session

LABELS, TOKENS, VOCABULARY, SIZE = 5, 80, 60, 32
NAMES = {str(number): name for number, name in enumerate("abcde")}
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": TOKENS,
    "initializer_range": 0.2,
}
MAPS = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [2, 1], "num_stages": 2}


@dataclass(frozen=True)
class Family:
    """An architecture of transformers in the smallest form, and where it is to be cut."""

    config: dict[str, Any]
    inputs: tuple[str, ...]
    blocks: tuple[str, ...]
    depth: str | None = "num_hidden_layers"  # what asks for a single block


IDS = ("input_ids", "attention_mask")
FAMILIES = {
    "Bert": Family(TEXT, (*IDS, "token_type_ids"), ("encoder.layer.0",)),
    "DistilBert": Family(
        {
            "vocab_size": VOCABULARY,
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 48,
            "max_position_embeddings": TOKENS,
            "initializer_range": 0.2,
        },
        IDS,
        ("transformer.layer.0",),
        depth="n_layers",
    ),
    "Roberta": Family(TEXT | {"type_vocab_size": 1}, IDS, ("encoder.layer.0",)),
    "MPNet": Family(TEXT, IDS, ("encoder.layer.0",)),
    "ViT": Family({**TEXT, "image_size": SIZE, "patch_size": 8}, ("pixel_values",), ("layers.0",)),
    "ResNet": Family(
        MAPS | {"layer_type": "basic"},
        ("pixel_values",),
        ("encoder.stages.0.layers.0", "encoder.stages.0.layers.1"),
        depth=None,
    ),
    "ConvNext": Family(
        MAPS | {"layer_scale_init_value": 0.5, "initializer_range": 0.2},
        ("pixel_values",),
        ("encoder.stages.0.layers.0",),
        depth=None,
    ),
}


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def change_json(path: Path, **changes: object) -> None:
    write_json(path, json.loads(path.read_text()) | changes)


def write_tokenizer(directory: Path) -> None:
    words = {"[PAD]": 0, "[UNK]": 1, "one": 2, "two": 3}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))


def save_model(directory: Path, name: str, head: str, **changes: object) -> nn.Module:
    """A random model as `save_pretrained` writes it, ready to be opened."""
    family = FAMILIES[name]
    config = getattr(transformers, f"{name}Config")(
        **family.config | {"num_labels": LABELS} | changes
    )
    torch.manual_seed(len(name))
    model: nn.Module = getattr(transformers, name + head)(config).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1)  # type: ignore[union-attr, operator]
    model.save_pretrained(directory)  # type: ignore[operator]
    if "pixel_values" in family.inputs:
        processor = ViTImageProcessorPil(size={"height": SIZE, "width": SIZE})
        processor.save_pretrained(directory)
    else:
        write_tokenizer(directory)
    return model


@pytest.fixture(scope="module", autouse=True)
def no_progress_bars() -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


@dataclass(frozen=True)
class Opened:
    name: str
    module: nn.Module
    source: Source

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        session = open_session(self.source.model.SerializeToString())
        found: np.ndarray = session.run([self.source.output], inputs)[0]
        return found

    def batch(self, rows: int, tokens: int) -> dict[str, np.ndarray]:
        """Random rows; the last text is padded from its middle on."""
        rng = np.random.default_rng(rows)
        if self.source.inputs[0].name == "pixel_values":
            return {"pixel_values": rng.normal(size=(rows, 3, SIZE, SIZE)).astype(np.float32)}
        mask = np.ones((rows, tokens), np.int64)
        mask[-1, tokens // 2 :] = 0
        ids = rng.integers(5, VOCABULARY, mask.shape)
        assert isinstance(self.source.preprocessing, TextPreprocessing)
        ids[mask == 0] = self.source.preprocessing.pad_id
        types = rng.integers(0, 2, mask.shape) * mask
        everything = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {spec.name: everything[spec.name] for spec in self.source.inputs}


HEADS = {True: "with head", False: "without head"}


@pytest.fixture(
    scope="module",
    params=[(name, headed) for name in FAMILIES for headed in (False, True)],
    ids=lambda param: f"{param[0]} {HEADS[param[1]]}",
)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Opened, bool]:
    """With its head, and with the data's labels being others than the head's."""
    name, headed = request.param
    kind = "Image" if "pixel_values" in FAMILIES[name].inputs else "Sequence"
    directory = tmp_path_factory.mktemp(name)
    depth = FAMILIES[name].depth
    changes = {depth: 1} if headed and depth else {}  # one block less to be exported
    module: Any = save_model(directory, name, f"For{kind}Classification", **changes)
    change_json(directory / "config.json", id2label=NAMES)
    source = open_source(str(directory), LABELS if headed else LABELS + 1)
    return Opened(name, module if headed else module.base_model, source), headed


@pytest.mark.slow
def test_the_graph_answers_as_torch_for_any_number_of_rows_and_tokens(
    opened: tuple[Opened, bool],
) -> None:
    model, headed = opened
    source = model.source
    assert (source.has_head, source.output) == (headed, "logits" if headed else "last_hidden_state")
    assert tuple(spec.name for spec in source.inputs) == FAMILIES[model.name].inputs
    text = isinstance(source.preprocessing, TextPreprocessing)
    lengths = (8, 24, 64, source.preprocessing.max_tokens) if text else (0,)  # type: ignore[union-attr]
    for rows in (1, 2, 5):
        for tokens in lengths:
            inputs = model.batch(rows, tokens)
            tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
            with torch.inference_mode():
                answer = model.module(**tensors)
            expected = answer.logits if headed else answer.last_hidden_state
            np.testing.assert_allclose(model.run(inputs), expected.numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_padding_changes_no_answer(opened: tuple[Opened, bool]) -> None:
    model, headed = opened
    if not isinstance(model.source.preprocessing, TextPreprocessing):
        return
    inputs = model.batch(3, 16)
    padding = {"input_ids": model.source.preprocessing.pad_id}
    padded = {
        name: np.pad(value, ((0, 0), (0, 9)), constant_values=padding.get(name, 0))
        for name, value in inputs.items()
    }
    found, expected = model.run(padded), model.run(inputs)
    if not headed:
        real = inputs["attention_mask"] == 1
        found, expected = found[:, :16][real], expected[real]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_one_hidden_state_and_the_mask_cross_between_blocks(opened: tuple[Opened, bool]) -> None:
    model, headed = opened
    source = model.source
    assert not source.model.functions
    mask = "attention_mask" if "attention_mask" in FAMILIES[model.name].inputs else None
    cuts = find_cuts(source.model, source.output, mask)
    for cut in cuts:
        assert cut.carry[1:] == ((mask,) if mask else ())
    for block in () if headed else FAMILIES[model.name].blocks:
        assert any(cut.name.endswith(block) for cut in cuts)


@pytest.mark.slow
def test_what_is_recorded(opened: tuple[Opened, bool]) -> None:
    model, headed = opened
    source = model.source
    assert source.names == (tuple(NAMES.values()) if headed else None)
    assert ("was left out" in str(source.facts.get("notes"))) is not headed
    assert source.facts["format"] == "huggingface"
    assert source.facts["class"] == type(model.module).__name__
    if isinstance(source.preprocessing, TextPreprocessing):
        behind_padding = 2 if model.name in ("Roberta", "MPNet") else 0
        assert source.preprocessing.max_tokens == TOKENS - behind_padding
        assert source.preprocessing.pad_id == (1 if behind_padding else 0)
        assert json.loads(source.files["tokenizer.json"])["model"]["type"] == "WordLevel"
        assert source.inputs[0] == TensorSpec(name="input_ids", dtype="int64", row_shape=(None,))
    else:
        assert source.files == {}
        assert source.inputs[0].row_shape == (3, SIZE, SIZE)
    encoder = open_encoder(source.preprocessing, source.inputs, source.files)  # type: ignore[arg-type]
    assert encoder is not None


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The smallest headed model; a test that breaks it is refused before anything is exported."""
    save_model(tmp_path, "DistilBert", "ForSequenceClassification", n_layers=1)
    return tmp_path


@pytest.mark.slow
def test_the_smallest_limit_of_tokens_counts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path, "DistilBert", "Model", n_layers=1)
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": 50})
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 40})
    capfd.readouterr()
    source = open_huggingface(tmp_path, LABELS)
    assert source.preprocessing == TextPreprocessing(max_tokens=40, pad_id=0)
    assert (source.has_head, "notes" in source.facts) == (False, False)
    assert capfd.readouterr() == ("", "")


def test_label_numbers_are_no_names_and_a_single_label_head_is_noted(saved: Path) -> None:
    change_json(saved / "config.json", problem_type="single_label_classification")
    config = transformers.AutoConfig.from_pretrained(saved)
    assert label_names(config) is None
    loader, notes = choose_loader(config, LABELS, None)
    assert loader == "AutoModelForSequenceClassification"
    assert "one label per row" in notes[0]
    assert choose_loader(config, LABELS, False)[0] == "AutoModel"


def test_a_missing_head_is_refused_where_one_is_asked_for(saved: Path) -> None:
    with pytest.raises(CalibrationError, match=r"with 5 labels, expected .* data's 28 labels"):
        open_huggingface(saved, 28, has_head=True)


def test_a_head_that_was_never_trained_is_refused(saved: Path) -> None:
    module = transformers.DistilBertModel.from_pretrained(saved)
    module.save_pretrained(saved)
    change_json(saved / "config.json", architectures=["DistilBertForSequenceClassification"])
    with pytest.raises(CalibrationError, match=r"lack 4 tensors .*classifier\.bias"):
        open_huggingface(saved, LABELS)


def test_a_text_model_without_its_fast_tokenizer_is_refused(saved: Path) -> None:
    (saved / "tokenizer.json").unlink()
    with pytest.raises(CalibrationError, match=r"has no tokenizer\.json.*AutoTokenizer"):
        open_huggingface(saved, LABELS)


def test_weights_in_pickles_are_refused(saved: Path) -> None:
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(CalibrationError, match=r"has no model\.safetensors"):
        open_huggingface(saved, LABELS)


def test_weights_that_cannot_be_read_are_refused(saved: Path) -> None:
    (saved / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CalibrationError, match="cannot be loaded by transformers"):
        open_huggingface(saved, LABELS)


def test_code_beside_a_model_is_never_run(saved: Path) -> None:
    (saved / "own.py").write_text("raise SystemExit('code from the directory was run')")
    classes = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    change_json(saved / "config.json", model_type="own", auto_map=classes)
    with pytest.raises(CalibrationError, match=r"custom code .*never run"):
        open_huggingface(saved, LABELS)


def test_a_configuration_that_is_no_json_is_refused(saved: Path) -> None:
    (saved / "config.json").write_text("{")
    with pytest.raises(CalibrationError, match="cannot be loaded by transformers"):
        open_huggingface(saved, LABELS)


@pytest.mark.parametrize("changes", [{"is_encoder_decoder": True}, {"model_type": "t5"}])
def test_models_that_generate_are_refused(saved: Path, changes: dict[str, object]) -> None:
    change_json(saved / "config.json", **changes)
    with pytest.raises(CalibrationError, match="generates, expected an encoder"):
        open_huggingface(saved, LABELS)


def test_other_inputs_than_texts_and_images_are_refused(tmp_path: Path) -> None:
    config = transformers.ASTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_length=32,
        num_mel_bins=32,
    )
    transformers.ASTModel(config).save_pretrained(tmp_path)
    with pytest.raises(CalibrationError, match=r"reads 'input_values', expected texts"):
        open_huggingface(tmp_path, LABELS)


def test_without_transformers_the_way_to_it_is_named(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CalibrationError, match=r"pip install 'offramp\[transformers\]'"):
        open_huggingface(saved, LABELS)


def test_an_output_cannot_be_named(saved: Path) -> None:
    with pytest.raises(CalibrationError, match="found output 'x' with a Hugging Face directory"):
        open_source(str(saved), LABELS, output="x")


def encoded(preprocessing: ImagePreprocessing, image: Image.Image) -> np.ndarray:
    file = io.BytesIO()
    image.save(file, "png")
    channels = 1 if preprocessing.mode == "L" else 3
    shape = (channels, preprocessing.height, preprocessing.width)
    encoder = open_encoder(preprocessing, [TensorSpec(name="x", row_shape=shape)], {})
    return encoder.encode([file.getvalue()]).groups[0].tensors[0]


@pytest.mark.parametrize("size", [(90, 60), (33, 140)])
@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessorPil(size={"height": 48, "width": 40}),
        ViTImageProcessorPil(size={"height": 48, "width": 48}, do_normalize=False, resample=3),
        ConvNextImageProcessorPil(size={"shortest_edge": 56}),
        ConvNextImageProcessorPil(size={"shortest_edge": 384}),
        CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
        DeiTImageProcessorPil(
            size={"height": 64, "width": 64}, crop_size={"height": 56, "width": 56}
        ),
        EfficientNetImageProcessorPil(
            size={"height": 48, "width": 48}, rescale_offset=True, rescale_factor=1 / 127.5
        ),
        MobileViTImageProcessorPil(
            size={"shortest_edge": 48}, crop_size={"height": 40, "width": 40}
        ),
        PoolFormerImageProcessorPil(
            size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}
        ),
    ],
    ids=lambda processor: type(processor).__name__ if not isinstance(processor, tuple) else None,
)
def test_images_are_prepared_as_by_the_library(
    tmp_path: Path, processor: Any, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
    processor.save_pretrained(tmp_path)
    found = encoded(image_preprocessing(transformers, tmp_path, 3, None), image)
    expected = np.asarray(processor(image, return_tensors="np")["pixel_values"])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def read_processor(directory: Path, channels: int = 3, **content: object) -> ImagePreprocessing:
    file = {
        "image_processor_type": "ViTImageProcessor",
        "image_mean": [0.5] * channels,
        "image_std": [0.25] * channels,
    }
    write_json(directory / "preprocessor_config.json", file | content)
    return image_preprocessing(transformers, directory, channels, SIZE)


def test_older_processor_files_are_understood(tmp_path: Path) -> None:
    old = read_processor(
        tmp_path,
        size=224,
        crop_pct=0.875,
        image_processor_type=None,
        feature_extractor_type="ConvNextFeatureExtractor",
    )
    assert (old.shortest_edge, old.height, old.width) == (256, 224, 224)
    assert old.rescale == pytest.approx(1 / 255)
    plain = read_processor(tmp_path, channels=1, do_resize=False)
    assert (plain.mode, plain.height, plain.width, plain.mean) == ("L", SIZE, SIZE, (0.5,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"size": {"shortest_edge": 224}}, "expected one size for all images"),
        ({"image_processor_type": "LevitImageProcessor"}, "in a way of its own"),
        ({"do_pad": True}, r"pads, or resizes"),
        ({"resample": 9}, "cannot be followed"),
        ({"image_mean": 1, "do_normalize": True}, "cannot be followed"),
        ({"image_std": [0, 0, 0]}, "cannot be followed"),
        ({"channels": 4}, "reads 4 channels, expected 3"),
        ({"image_processor_type": "NoSuchProcessor"}, "cannot be followed"),
    ],
)
def test_processors_that_cannot_be_followed_are_refused(
    tmp_path: Path, content: dict[str, Any], message: str
) -> None:
    with pytest.raises(CalibrationError, match=message):
        read_processor(tmp_path, **content)


def test_an_image_model_without_its_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"no preprocessor_config\.json.*AutoImageProcessor"):
        image_preprocessing(transformers, tmp_path, 3, SIZE)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(CalibrationError, match="cannot be followed"):
        image_preprocessing(transformers, tmp_path, 3, SIZE)


def test_a_settings_file_that_is_no_object_is_refused(saved: Path) -> None:
    (saved / "tokenizer_config.json").write_text("[]")
    with pytest.raises(CalibrationError, match="holds a list, expected a JSON object"):
        open_huggingface(saved, LABELS)
    (saved / "tokenizer_config.json").write_text("{")
    with pytest.raises(CalibrationError, match="is not JSON"):
        open_huggingface(saved, LABELS)
