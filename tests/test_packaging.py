from __future__ import annotations

import tomllib

import pytest
import yaml
from packaging.requirements import Requirement

from tests.conftest import ROOT

RUNTIMES = {"onnxruntime", "onnxruntime-gpu"}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def parsed(requirements: list[str]) -> set[Requirement]:
    return {Requirement(requirement) for requirement in requirements}


def pins(name: str) -> dict[str, str]:
    """Versions by normalised name."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    return {
        pin.name.lower().replace("_", "-"): next(iter(pin.specifier)).version
        for pin in map(Requirement, lines)
    }


def test_a_bento_takes_the_versions_for_a_cpu() -> None:
    bento = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    assert bento["python"] == {"lock_packages": False, "requirements_txt": "container/cpu.lock"}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_images_install_every_serving_dependency_of_their_device(device: str) -> None:
    wanted = {one for one in parsed(project()["dependencies"]) if one.name not in RUNTIMES}
    if device == "cuda":
        wanted |= parsed(project()["optional-dependencies"]["cuda"])
    else:
        wanted |= {one for one in parsed(project()["dependencies"]) if one.name == "onnxruntime"}
    found = pins(f"container/{device}.lock")
    assert len(RUNTIMES & found.keys()) == 1
    for requirement in wanted:
        name = requirement.name.lower().replace("_", "-")
        assert requirement.specifier.contains(found[name]), requirement


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_images_install_the_versions_that_are_tested(device: str) -> None:
    tested = pins("requirements.lock")
    tested["onnxruntime"] = tested["onnxruntime-gpu"]
    found = pins(f"container/{device}.lock")
    libraries = {name for name in found if name not in tested}
    assert found.items() - tested.items() == {(name, found[name]) for name in libraries}
    assert all(name.startswith("nvidia-") for name in libraries)
    assert bool(libraries) == (device == "cuda")
    assert "torch" not in found


def test_lock_pins_every_dependency_inside_its_range() -> None:
    tested = pins("requirements.lock")
    assert tested["torch"] == "2.13.0"
    extras = project()["optional-dependencies"].values()
    wanted = parsed([*project()["dependencies"], *(one for extra in extras for one in extra)])
    for requirement in wanted:
        name = requirement.name.lower().replace("_", "-")
        if name not in {"offramp", "onnxruntime"}:  # itself, and the other platforms' runtime
            assert requirement.specifier.contains(tested[name]), requirement
