from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from calibration.source import Source
from calibration.sources import open_source
from calibration.torch_export import first_tensor
from calibration.torch_source import open_factory
from models.cuts import find_cuts
from models.errors import CalibrationError, GraphError
from models.preprocessing import TensorSpec
from models.runtime import open_session

LABELS, COLUMNS = 4, 6
NETWORKS = '''
import torch
from torch import nn


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.inlet = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3))
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 4)

    def logits(self, x):
        x = self.inlet(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm(x))

    forward = logits


class Sigmoid(Blocks):
    def forward(self, x):
        return {"hidden": x, "logits": self.logits(x).sigmoid()}


class Softmax(Blocks):
    def forward(self, x):
        return self.logits(x).softmax(1)


class Sequence(nn.Module):
    """Attention over the first dimension of a row, whose size varies."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.inlet, self.encoder = nn.Linear(6, 8), nn.TransformerEncoder(layer, 2)

    def forward(self, x):
        return self.encoder(self.inlet(x))


class PerRow(Blocks):
    def forward(self, x):
        return torch.cat([self.logits(row[None]) for row in x])


class Random(Blocks):
    def forward(self, x):
        return nn.functional.dropout(self.logits(x))


class Branch(Blocks):
    def forward(self, x):
        return self.logits(x) if x.sum() > 0 else -self.logits(x)


class NoAnswer(Blocks):
    def forward(self, x):
        return "none"


class TwoRows(Blocks):
    def forward(self, x):
        return self.logits(x).reshape(2, 4)


def broken():
    raise RuntimeError("out of memory")


def number():
    return 3


not_callable = 3
'''

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory holds `user_networks.py`."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "user_networks.py").write_text(NETWORKS)
    (folder / "user_broken.py").write_text("import a_library_that_is_not_installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder
    sys.modules.pop("user_networks")
    assert str(folder) not in sys.path


@pytest.fixture(scope="module")
def module(networks: Path) -> nn.Module:
    """The same architecture with weights of its own, batch statistics included."""
    spec = spec_from_file_location("copy_of_user_networks", networks / "user_networks.py")
    assert spec is not None
    assert spec.loader is not None
    copy = module_from_spec(spec)
    spec.loader.exec_module(copy)
    torch.manual_seed(5)
    network: nn.Module = copy.Blocks()
    network(torch.randn(64, COLUMNS))
    return network.eval()


def open_network(name: str, **options: object) -> Source:
    arguments = {"labels": LABELS, "row_shape": (COLUMNS,), **options}
    return open_source(f"user_networks:{name}", **arguments)  # type: ignore[arg-type]


def run(source: Source, rows: np.ndarray) -> np.ndarray:
    session = open_session(source.model.SerializeToString())
    found: np.ndarray = session.run([source.output], {source.inputs[0].name: rows})[0]
    return found


def check_equal(source: Source, network: nn.Module, *shape: int) -> None:
    for batch in (1, 2, 5):
        rows = torch.randn((batch, *shape), generator=torch.Generator().manual_seed(batch))
        with torch.inference_mode():
            expected = network(rows).numpy()
        np.testing.assert_allclose(run(source, rows.numpy()), expected, atol=1e-4)


@pytest.fixture(scope="module")
def opened(module: nn.Module, networks: Path) -> Source:
    torch.save({"state_dict": module.state_dict(), "epoch": 3}, networks / "weights.pt")
    return open_network("Blocks", weights=networks / "weights.pt")


def test_a_module_with_its_weights_answers_as_in_torch(opened: Source, module: nn.Module) -> None:
    assert (opened.has_head, opened.preprocessing) == (True, None)
    assert opened.inputs == (TensorSpec(name="rows", row_shape=(COLUMNS,)),)
    assert opened.facts["factory"] == "user_networks:Blocks"
    assert opened.facts["weights"] == "weights.pt"
    check_equal(opened, module, COLUMNS)


def test_layers_keep_their_names(opened: Source) -> None:
    scopes = [
        json.loads(entry.value.replace("'", '"'))
        for node in opened.model.graph.node
        for entry in node.metadata_props
        if entry.key == "pkg.torch.onnx.name_scopes"
    ]
    assert any("blocks.1" in scope for scope in scopes)
    names = " ".join(cut.name for cut in find_cuts(opened.model, opened.output))
    assert "blocks.0" in names
    assert "blocks.1" in names


def safetensors(state: Weights, path: Path) -> Path:
    save_file(state, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def pickled(state: Weights, path: Path) -> Path:
    torch.save(state, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


@pytest.mark.parametrize(("write", "prefix"), [(safetensors, ""), (pickled, "module.")])
def test_weights_may_come_in_several_forms(
    module: nn.Module,
    tmp_path: Path,
    write: Callable[[Weights, Path], Path],
    prefix: str,
) -> None:
    state = {prefix + key: value for key, value in module.state_dict().items()}
    source = open_network("Blocks", weights=write(state, tmp_path / "weights"))
    check_equal(source, module, COLUMNS)


def test_the_logits_before_a_sigmoid_are_read_from_a_mapping(networks: Path) -> None:
    source = open_network("Sigmoid")
    assert source.has_head
    assert "Sigmoid" not in [node.op_type for node in source.model.graph.node]
    assert "sigmoid" in source.facts["notes"][0]


def test_a_softmax_is_refused_unless_its_logits_are_asked_for(networks: Path) -> None:
    with pytest.raises(GraphError, match=r"ends in a Softmax.*--output (\w+)") as refusal:
        open_network("Softmax")
    name = str(refusal.value).split("--output ")[1].split()[0]
    source = open_network("Softmax", output=name)
    assert (source.output, source.has_head) == (name, True)


def test_a_module_can_be_opened_for_other_labels(networks: Path) -> None:
    assert not open_network("Blocks", labels=28, has_head=False).has_head


@pytest.mark.slow
def test_rows_may_vary_in_length(networks: Path) -> None:
    row = TensorSpec(name="steps", row_shape=(None, COLUMNS))
    source = open_factory("user_networks:Sequence", LABELS, row)
    assert source.inputs == (row,)
    assert not source.has_head
    for shape in ((1, 3, COLUMNS), (5, 40, COLUMNS)):
        assert run(source, np.ones(shape, np.float32)).shape == (*shape[:2], 8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PerRow", r"the exported graph fails on inputs \{'rows': \(1, 6\)\}.*loops over the rows"),
        ("Random", r"the exported graph differs by .*draws random numbers"),
        ("Branch", r"cannot be exported to ONNX with a dynamic batch: .*no Python branches"),
        ("NoAnswer", r"the module returned str, expected a tensor"),
        ("TwoRows", r"fails on inputs \{'rows': \(1, 6\)\}: shape '\[2, 4\]' is invalid"),
    ],
)
def test_modules_that_cannot_be_exported_are_refused_quietly(
    networks: Path, capfd: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    with pytest.raises(GraphError, match=message) as refusal:
        open_network(name)
    assert "\n" not in str(refusal.value)
    assert capfd.readouterr() == ("", "")


def test_rows_of_another_shape_are_refused(networks: Path) -> None:
    with pytest.raises(GraphError, match=r"fails on inputs \{'rows': \(2, 7\)\}: .*multiplied"):
        open_network("Blocks", row_shape=(7,))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("user_networks:broken", r"broken\(\) raised RuntimeError: out of memory"),
        ("user_networks:number", r"number\(\) returned int, expected a torch.nn.Module"),
        ("user_networks:not_callable", "no function 'not_callable'"),
        ("user_networks:missing", "no function 'missing'.*run from the folder"),
        ("user_broken:make", "cannot import 'user_broken' .*a_library_that_is_not_installed"),
        ("no_such_module:make", "cannot import 'no_such_module'"),
        ("models:make", "offramp has a package of that name itself; rename yours"),
        ("user_networks", "expected package.module:factory"),
    ],
)
def test_factories_that_cannot_be_used_are_refused(
    networks: Path, reference: str, message: str
) -> None:
    with pytest.raises(CalibrationError, match=message):
        open_factory(reference, LABELS, TensorSpec(name="rows", row_shape=(COLUMNS,)))


class Dangerous:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code from a weights file was run",)


def test_a_pickle_of_code_is_refused_and_not_run(
    networks: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save({"a": Dangerous()}, tmp_path / "weights.pt")
    with pytest.raises(CalibrationError, match=r"would run code .* is refused; .*save_file"):
        open_network("Blocks", weights=tmp_path / "weights.pt")
    assert "was run" not in capfd.readouterr().out


def test_weights_that_do_not_fit_are_listed(module: nn.Module, tmp_path: Path) -> None:
    state = {f"other.{key}": value for key, value in module.state_dict().items()}
    state["head.weight"] = torch.zeros(LABELS, 9)
    with pytest.raises(CalibrationError, match="do not fit the module") as refusal:
        open_network("Blocks", weights=pickled(state, tmp_path / "weights"))
    message = str(refusal.value)
    assert "missing: blocks.0.0.bias, blocks.0.0.weight, blocks.1.0.bias" in message
    assert "and 9 more; unexpected: other.blocks.0.0.bias" in message
    assert "of another shape: head.weight is (4, 9) instead of (4, 8)" in message


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 cut short"])
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_files_that_hold_no_weights_are_refused(
    networks: Path, tmp_path: Path, content: bytes, ending: str
) -> None:
    path = tmp_path / f"weights.{ending}"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=r"weights\.\w+ .*save_file"):
        open_network("Blocks", weights=path)


def test_other_things_than_a_mapping_of_tensors_are_refused(networks: Path, tmp_path: Path) -> None:
    for number, content in enumerate(([torch.zeros(2)], {"epoch": 3}, {})):
        torch.save(content, tmp_path / f"{number}.pt")
        with pytest.raises(CalibrationError, match="no mapping of names to tensors"):
            open_network("Blocks", weights=tmp_path / f"{number}.pt")
    with pytest.raises(CalibrationError, match="found no such file"):
        open_network("Blocks", weights=tmp_path / "missing.pt")


def test_options_must_go_with_the_form_of_the_model(networks: Path) -> None:
    with pytest.raises(CalibrationError, match="needs data whose rows are numbers"):
        open_source("user_networks:Blocks", LABELS)
    with pytest.raises(CalibrationError, match="holds its own"):
        open_source("model.onnx", LABELS, weights=Path("weights.pt"))


def test_the_three_forms_are_named_where_none_is_found(networks: Path) -> None:
    forms = "an ONNX file .* a Hugging Face directory .* a torch factory"
    (networks / "notes.txt").write_text("")
    with pytest.raises(CalibrationError, match=f"found no model 'org/name'; .*{forms}"):
        open_source("org/name", LABELS)
    with pytest.raises(CalibrationError, match=f"has no config.json; .*{forms}"):
        open_source(str(networks), LABELS)
    with pytest.raises(CalibrationError, match=rf"does not end in \.onnx; .*{forms}"):
        open_source("notes.txt", LABELS)


def test_an_onnx_file_is_opened_by_its_ending(opened: Source, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(opened.model.SerializeToString())
    again = open_source(str(path), LABELS)
    assert (again.output, again.inputs) == (opened.output, opened.inputs)


def test_first_tensor() -> None:
    logits, other = torch.zeros(1, 2), torch.ones(1, 3)
    for answer in (logits, (logits, other), [logits], {"logits": logits}, {"a": logits}):
        assert first_tensor(answer) is logits
    assert first_tensor({"hidden": other, "logits": logits}) is logits
    assert first_tensor((None, logits)) is logits
