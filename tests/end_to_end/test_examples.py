from __future__ import annotations

from collections.abc import Callable

import pytest

from models.bundle import read_bundle
from tests.conftest import ROOT
from tests.end_to_end.conftest import SMALLER, Run

pytestmark = pytest.mark.slow

LAYERS = {
    "onnx_file": "blocks.",
    "huggingface": "encoder.layer",
    "torch_factory": "blocks.",
    "train": "stage",
}
"""What the layers of an early exit are called in each example's model."""


@pytest.mark.parametrize("example", SMALLER)
def test_the_readmes_commands_make_bundles(
    example: str, example_runs: Callable[[str], list[Run]]
) -> None:
    runs = example_runs(example)
    assert runs
    for run in runs:
        manifest = read_bundle(run.bundle).manifest
        printed = run.result.stdout
        assert f"{run.bundle.name}: exits on the test split" in printed
        assert manifest.certificate.sentence in " ".join(printed.split())
        assert f"Bundle written to {run.bundle.relative_to(run.folder)}" in printed
        assert any(LAYERS[example] in layer.layer for layer in manifest.profile.layers)


@pytest.mark.parametrize("example", SMALLER)
def test_a_readmes_output_is_of_its_own_commands(example: str) -> None:
    readme = (ROOT / "examples" / example / "README.md").read_text()
    (table,) = (line.strip() for line in readme.splitlines() if "exits on the test split" in line)
    name = table.partition(":")[0]
    assert f"--out bundles/{name}\n" in readme
    assert f"    Bundle written to bundles/{name}; open bundles/{name}/report.html\n" in readme


def test_a_finished_training_is_not_repeated_for_another_promise(
    example_runs: Callable[[str], list[Run]],
) -> None:
    first, second = (read_bundle(run.bundle).manifest for run in example_runs("train"))
    assert tuple(m.certificate.promises[0].epsilon for m in (first, second)) == (0.02, 0.05)
    assert first.facts["training"]["epochs"] == second.facts["training"]["epochs"]
    distances = [[layer.to_labels for layer in m.profile.layers] for m in (first, second)]
    assert distances[0] == distances[1]
