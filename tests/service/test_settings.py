from __future__ import annotations

import pytest

from models.errors import SettingsError
from service.settings import load_settings


def test_defaults_fit_together() -> None:
    settings = load_settings()
    assert settings.lanes >= 1
    assert settings.bundle.endswith("bundles/digits")


@pytest.mark.parametrize("value", ["0", "-1", "two"])
def test_a_bad_value_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("OFFRAMP_LANES", value)
    with pytest.raises(SettingsError, match=f"OFFRAMP_LANES is '{value}': expected"):
        load_settings()


def test_a_queue_smaller_than_a_request_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFRAMP_MAX_QUEUE_ROWS", "100")
    with pytest.raises(SettingsError, match="OFFRAMP_MAX_QUEUE_ROWS is 100, expected at least"):
        load_settings()
