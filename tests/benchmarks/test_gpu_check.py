from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_check
from tests.conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))  # scripts import their neighbours by name

from serving import parse


def test_without_a_device_it_says_so_and_leaves_the_page_alone() -> None:
    if not gpu_check.missing_device():
        pytest.skip("there is a CUDA device here")
    before = gpu_check.PAGE.read_bytes()
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check"], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 1
    assert "gpu-check: no CUDA device to check: ONNX Runtime" in result.stderr
    assert gpu_check.PAGE.read_bytes() == before


def test_packages_that_are_missing_are_named_with_what_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert gpu_check.missing_packages() == ""
    monkeypatch.setitem(gpu_check.NEEDED, "no_such_module", "no-such-distribution")
    assert "-m pip install no-such-distribution" in gpu_check.missing_packages()


def test_the_page_names_the_machine_before_its_figures() -> None:
    page = gpu_check.page("Some GPU, driver 1.2", "ONNX Runtime 9", "| rows | 7 |\n")
    assert page.index("Some GPU, driver 1.2") < page.index("ONNX Runtime 9")
    assert page.endswith("\n| rows | 7 |\n")


def test_servers_are_compared_where_all_of_it_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_check, "DIGITS", tmp_path)
    monkeypatch.setattr(gpu_check, "MLSERVER", tmp_path / "python")
    assert gpu_check.missing_servers() == ""
    assert "--mlserver-python" not in gpu_check.served(tmp_path / "table.md")
    (tmp_path / "python").touch()
    command = gpu_check.served(tmp_path / "table.md")
    assert parse(command[1:]).device == "cuda"
    assert parse(command[1:]).mlserver_python == tmp_path / "python"


def test_what_keeps_servers_from_being_compared_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "DIGITS", gpu_check.ROOT / "no-bundle")
    assert gpu_check.missing_servers() == "no-bundle is not there: make bundle"
    monkeypatch.setitem(gpu_check.NEEDED_FOR_SERVERS, "no_such_module", "no-such-distribution")
    assert "has no no-such-distribution" in gpu_check.missing_servers()
