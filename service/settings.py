"""Settings of the service, from environment variables with the prefix `OFFRAMP_`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.errors import SettingsError
from models.machine import available_cores

ROOT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """Every field is an environment variable: `bundle` is `OFFRAMP_BUNDLE`, and so on."""

    model_config = SettingsConfigDict(env_prefix="OFFRAMP_", frozen=True)

    bundle: str = str(ROOT / "bundles" / "digits")
    """A bundle's directory, or its tag in the BentoML model store."""
    lanes: int = Field(default_factory=available_cores, ge=1)
    """Threads that run stages; each stage run uses one core."""
    max_rows: int = Field(default=256, ge=1)
    """Rows one request may hold."""
    max_queue_rows: int = Field(default=4096, ge=1)
    """Rows that may wait for a lane; more are refused."""
    max_body_bytes: int = Field(default=16 * 2**20, ge=1)
    """Bytes of one HTTP body."""

    @model_validator(mode="after")
    def _queue_holds_a_request(self) -> Settings:
        if self.max_queue_rows < self.max_rows:
            raise ValueError(
                f"OFFRAMP_MAX_QUEUE_ROWS is {self.max_queue_rows}, expected at least "
                f"OFFRAMP_MAX_ROWS, which is {self.max_rows}: a request would never fit"
            )
        return self


def load_settings() -> Settings:
    """Read the environment.

    Raises
    ------
    SettingsError
        Names the variable, what it holds and what was expected.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:
            raise SettingsError(first["msg"].removeprefix("Value error, ")) from None
        raise SettingsError(
            f"OFFRAMP_{str(first['loc'][0]).upper()} is {first['input']!r}: "
            f"{first['msg'].replace('Input should be', 'expected')}"
        ) from None
