"""Settings of the service, from environment variables with the prefix `OFFRAMP_`."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """Every field is an environment variable: `bundle` is `OFFRAMP_BUNDLE`, and so on."""

    model_config = SettingsConfigDict(env_prefix="OFFRAMP_", frozen=True)

    bundle: str = str(ROOT / "bundles" / "digits")
    """A bundle's directory, or its tag in the BentoML model store."""
    lanes: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Threads that run stages; each stage run uses one core."""
    max_rows: int = Field(default=256, ge=1)
    """Rows one request may hold."""
    max_queue_rows: int = Field(default=4096, ge=1)
    """Rows that may wait for a lane; more are refused."""
    max_body_bytes: int = Field(default=16 * 2**20, ge=1)
    """Bytes of one HTTP body."""
