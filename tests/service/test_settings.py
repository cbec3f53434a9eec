from __future__ import annotations

import pytest

from models.errors import SettingsError
from service.settings import Settings, load_settings


def test_defaults_fit_together() -> None:
    settings = load_settings()
    assert (settings.lanes, settings.threads) == ("auto", 0)
    assert (settings.device, settings.mode, settings.overload) == ("cpu", "rebatch", "refuse")
    assert settings.bundle.endswith("bundles/digits")


def test_lanes_are_measured_or_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFRAMP_LANES", "auto")
    assert load_settings().lanes == "auto"
    monkeypatch.setenv("OFFRAMP_LANES", "3")
    assert load_settings().lanes == 3
    assert Settings(lanes=2).lanes == 2


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("OFFRAMP_LANES", "0", "'auto' or a whole number of at least 1"),
        ("OFFRAMP_LANES", "-1", "'auto' or a whole number of at least 1"),
        ("OFFRAMP_LANES", "two", "'auto' or a whole number of at least 1"),
        ("OFFRAMP_LANES", "1.5", "'auto' or a whole number of at least 1"),
        ("OFFRAMP_LANES", "", "'auto' or a whole number of at least 1"),
        ("OFFRAMP_THREADS", "-1", "greater than or equal to 0"),
        ("OFFRAMP_DEVICE", "gpu", "'cpu', 'cuda' or 'tensorrt'"),
        ("OFFRAMP_MODE", "fast", "'rebatch', 'compact' or 'monolith'"),
        ("OFFRAMP_OVERLOAD", "drop", "'refuse' or 'shallow'"),
        ("OFFRAMP_MAX_WAIT_MS", "0", "greater than 0"),
        ("OFFRAMP_MAX_WAIT_MS", "inf", "a finite number"),
        ("OFFRAMP_MAX_BATCH_ROWS", "0", "greater than or equal to 1"),
    ],
)
def test_a_bad_value_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"^{variable} is '{value}': expected .*{expected}"):
        load_settings()


def test_a_queue_smaller_than_a_request_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFRAMP_MAX_QUEUE_ROWS", "100")
    with pytest.raises(SettingsError, match="OFFRAMP_MAX_QUEUE_ROWS is 100, expected at least"):
        load_settings()
