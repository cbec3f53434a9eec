"""What an image is built from: the Bento and the file that `bentoml containerize` builds."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from models.bundle import read_bundle
from tests.conftest import ROOT
from tests.containers.conftest import SECRET, BuiltBento, run_python
from tests.small_bundles import small_bundle

DEVICES = ("cpu", "cuda")
ANY_DEVICE = pytest.mark.parametrize("device", DEVICES)
Bentos = Callable[[str], BuiltBento]


def environment(containerfile: str) -> dict[str, str]:
    """The variables that come from the Bento, which names each in an ARG first."""
    lines = re.findall(r"^ARG (\w+)=(.*)$", containerfile, re.MULTILINE)
    return {name: "".join(shlex.split(value)) for name, value in lines}


@ANY_DEVICE
def test_an_image_runs_as_a_user_without_rights(bento: Bentos, device: str) -> None:
    lines = bento(device).containerfile.splitlines()
    users = [line for line in lines if line.startswith("USER ")]
    assert users[-1] == "USER bentoml"
    assert "ARG BENTO_USER_UID=1034" in lines


@ANY_DEVICE
def test_an_image_is_built_on_slim_python_without_a_compiler(bento: Bentos, device: str) -> None:
    containerfile = bento(device).containerfile
    assert re.findall(r"^FROM (\S+)", containerfile, re.MULTILINE) == ["python:3.11-slim"]
    for installer in ("apt-get", "build-essential", "git ", "yum", "apk add"):
        assert installer not in containerfile


@ANY_DEVICE
def test_both_ports_are_open_to_the_outside(bento: Bentos, device: str) -> None:
    containerfile = bento(device).containerfile
    assert re.findall(r"^EXPOSE (\d+)", containerfile, re.MULTILINE) == ["3000", "3001"]
    variables = environment(containerfile)
    assert variables["BENTOML_HOST"] == variables["OFFRAMP_GRPC_HOST"] == "0.0.0.0"


def test_signals_reach_the_server(bento: Bentos) -> None:
    built = bento("cpu")
    entry = re.findall(r"^(?:ENTRYPOINT|CMD) (.*)$", built.containerfile, re.MULTILINE)
    assert [json.loads(one) for one in entry] == [
        ["/home/bentoml/bento/env/docker/entrypoint.sh"]  # no shell between
    ]
    script = (built.path / "env" / "docker" / "entrypoint.sh").read_text()
    assert 'exec bentoml "$@" "$BENTO_PATH"' in script


@ANY_DEVICE
def test_an_image_says_nothing_to_anybody(bento: Bentos, device: str) -> None:
    variables = environment(bento(device).containerfile)
    assert variables["BENTOML_DO_NOT_TRACK"] == "True"
    assert variables["ORT_DISABLE_TELEMETRY"] == "1"


def test_only_the_gpu_image_asks_for_a_gpu(bento: Bentos) -> None:
    cpu, cuda = (environment(bento(device).containerfile) for device in DEVICES)
    assert cuda["OFFRAMP_DEVICE"] == "cuda"
    assert cuda["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert not {name for name in cpu if name == "OFFRAMP_DEVICE" or name.startswith("NVIDIA")}


def test_each_image_has_the_runtime_of_its_device(bento: Bentos) -> None:
    cpu, cuda = (bento(device).requirements for device in DEVICES)
    assert "onnxruntime" in cpu
    assert "onnxruntime-gpu" in cuda
    assert "onnxruntime" not in cuda  # both are one module: the later one would win
    libraries = {"nvidia-cudnn-cu13", "nvidia-cublas", "nvidia-cuda-runtime"}
    assert libraries <= set(cuda)
    assert not [name for name in cpu if name.startswith(("nvidia-cu", "onnxruntime-gpu", "torch"))]
    assert "torch" not in cuda


@ANY_DEVICE
def test_no_secret_of_the_builder_gets_into_a_bento(bento: Bentos, device: str) -> None:
    files = [path for path in bento(device).path.rglob("*") if path.is_file()]
    assert len(files) > 50
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_a_bento_holds_the_service_and_no_other_part(bento: Bentos) -> None:
    built = bento("cpu")
    source = built.path / "src"
    assert {path.name for path in source.iterdir()} == {
        "models",
        "service",
        "README.md",
        "LICENSE",
        "bentofile.yaml",
    }
    wanted = {
        path.relative_to(ROOT)
        for folder, pattern in (("models", "*.py"), ("service", "*.py"), ("service/page", "*"))
        for path in (ROOT / folder).glob(pattern)
        if path.is_file()
    }
    found = {path.relative_to(source) for path in source.glob("*/**/*") if path.is_file()}
    assert found == wanted


def test_a_bento_carries_its_bundle_under_the_models_version(bento: Bentos) -> None:
    built = bento("cpu")
    stored = read_bundle(built.home / "models" / built.model.replace(":", "/"))
    assert built.model == f"offramp-{stored.manifest.name}:{stored.manifest.digest[:12]}"
    assert environment(built.containerfile)["OFFRAMP_BUNDLE"] == built.model
    assert f"tag: {built.model}" in (built.path / "bento.yaml").read_text()


def test_a_bundle_is_stored_once(bento: Bentos) -> None:
    built = bento("cpu")
    again = built.run("-m", "container.bento", str(built.home.parent / "bundle"))
    assert again.returncode == 0, again.stderr
    assert f"with {built.model}\n" in again.stdout
    versions = [path for path in (built.home / "models").glob("*/*") if path.is_dir()]
    assert [path.name for path in versions] == [built.model.split(":")[1]]


def test_a_bento_of_several_bundles_serves_the_first_by_default(
    bento: Bentos, tmp_path: Path
) -> None:
    built = bento("cpu")
    other = small_bundle(tmp_path / "texts", "text").path
    result = built.run("-m", "container.bento", f"{other}, {built.home.parent / 'bundle'}")
    assert result.returncode == 0, result.stderr
    found = re.search(r"OFFRAMP_BUNDLE=(\S+) bentoml serve (\S+)", result.stdout)
    assert found
    several = replace(built, tag=found[2], model=found[1])
    first, second = found[1].split(",")
    assert second == built.model != first
    assert environment(several.containerfile)["OFFRAMP_BUNDLE"] == found[1]


def test_what_is_no_bundle_makes_no_bento(bento: Bentos) -> None:
    home = bento("cpu").home
    before = sorted((home / "bentos" / "offramp").iterdir())
    result = run_python(home, "-m", "container.bento", "no/such/bundle")
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "no/such/bundle" in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted((home / "bentos" / "offramp").iterdir()) == before
