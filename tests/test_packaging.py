from __future__ import annotations

import tomllib

import yaml
from packaging.requirements import Requirement

from tests.conftest import ROOT


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def parsed(requirements: list[str]) -> set[Requirement]:
    return {Requirement(requirement) for requirement in requirements}


def test_bentofile_repeats_the_serving_dependencies() -> None:
    bento = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    assert parsed(bento["python"]["packages"]) == parsed(project()["dependencies"])


def test_lock_pins_every_dependency_inside_its_range() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = {
        pin.name.lower().replace("_", "-"): next(iter(pin.specifier)).version
        for pin in map(Requirement, lines)
    }
    assert pins["torch"] == "2.13.0"
    extras = project()["optional-dependencies"].values()
    wanted = parsed([*project()["dependencies"], *(one for extra in extras for one in extra)])
    for requirement in wanted:
        name = requirement.name.lower().replace("_", "-")
        if name not in {"offramp", "onnxruntime"}:  # itself, and the other platforms' runtime
            assert requirement.specifier.contains(pins[name]), requirement
