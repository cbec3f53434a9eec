"""Settings of the service, from environment variables with the prefix `OFFRAMP_`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.errors import SettingsError

ROOT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """Every field is an environment variable: `bundle` is `OFFRAMP_BUNDLE`, and so on."""

    model_config = SettingsConfigDict(env_prefix="OFFRAMP_", frozen=True)

    bundle: str = str(ROOT / "bundles" / "digits")
    """A bundle's directory, or its tag in the BentoML model store; several with commas between
    them, each a model of its own. Requests that name none mean the first."""
    device: Literal["cpu", "cuda", "tensorrt"] = "cpu"
    """What runs the stages. TensorRT computes differently: certify thresholds for it."""
    lanes: int | Literal["auto"] = "auto"
    """Workers that run stages; `auto` measures how many are best."""
    threads: int = Field(default=0, ge=0)
    """Threads of one lane; 0 chooses them together with the lanes."""
    mode: Literal["rebatch", "compact", "monolith"] = "rebatch"
    """`compact` runs a batch to its end without refilling it, `monolith` has the exits off."""
    overload: Literal["refuse", "shallow"] = "refuse"
    """When rows are too many: refuse them, or let rows leave at the exit that they have reached."""
    max_wait_ms: float = Field(default=30_000, gt=0, allow_inf_nan=False)
    """A request that would have to wait longer, if every row ran to the end, is refused."""
    max_batch_rows: int = Field(default=256, ge=1)
    """Rows of one batch."""
    max_rows: int = Field(default=256, ge=1)
    """Rows one request may hold."""
    max_queue_rows: int = Field(default=4096, ge=1)
    """Rows admitted and not yet answered; more are refused."""
    max_body_bytes: int = Field(default=16 * 2**20, ge=1)
    """Bytes of one HTTP body, inflated, or of one gRPC message."""
    max_parallel: int = Field(default=1024, ge=1)
    """Requests that are answered at the same time, by each of HTTP and gRPC; more are refused."""
    max_connections: int = Field(default=2048, ge=1)
    """HTTP connections; over it, or over what the process may open, silent ones are ended."""
    grpc_host: str = "127.0.0.1"
    """Address that the gRPC port is bound to."""
    grpc_port: int = Field(default=3001, ge=0, le=65535)
    """0 takes any free port."""
    repository_calls: bool = False
    """Whether clients may load and unload models, and end a fallback to full depth."""
    watch_seconds: float = Field(default=0, ge=0, le=86_400, allow_inf_nan=False)
    """How often to look whether a bundle has changed, and then load it; 0 never looks."""
    shadow_share: float = Field(default=0.01, ge=0, le=1, allow_inf_nan=False)
    """Share of rows that the monitor draws and compares with full depth; 0 switches it off."""
    monitor_alpha: float = Field(default=0.01, gt=0, lt=1, allow_inf_nan=False)
    """Chance, over all time, that the monitor falls back although the promise holds."""
    monitor_state: Path | None = None
    """Directory where the monitor keeps its state; without it a restart begins anew."""
    access_log: bool = False
    """Whether every request is a line of the log."""
    keys_file: Path | None = None
    """Keys of clients, one a line; without it nobody is asked for one."""
    admin_keys_file: Path | None = None
    """Keys for repository calls, one a line; without it `keys_file` counts."""
    metrics_key: bool = False
    """Whether `/metrics` asks for a key of `keys_file` too."""
    tls_certificate: Path | None = None
    """PEM file of the certificate chain, for both ports."""
    tls_key: Path | None = None
    """PEM file of the certificate's private key."""
    tls_client_ca: Path | None = None
    """PEM file of authorities; clients then need a certificate of one of them (mTLS)."""

    @field_validator("lanes", mode="before")
    @classmethod
    def _auto_or_a_number(cls, value: Any) -> Any:
        try:
            number = 1 if value == "auto" else int(value)
        except (TypeError, ValueError):
            number = 0
        if number < 1:
            raise ValueError("expected 'auto' or a whole number of at least 1")
        return value if value == "auto" else number

    @field_validator(
        "keys_file",
        "admin_keys_file",
        "tls_certificate",
        "tls_key",
        "tls_client_ca",
        "monitor_state",
    )
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_absolute():
            raise ValueError("expected an absolute path: a Bento runs in a folder of its own")
        return path

    @property
    def bundles(self) -> tuple[str, ...]:
        """What `bundle` names, one by one."""
        return tuple(name.strip() for name in self.bundle.split(","))

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
        expected = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise SettingsError(expected) from None
        raise SettingsError(
            f"OFFRAMP_{str(first['loc'][0]).upper()} is {first['input']!r}: "
            f"{expected.replace('Input should be', 'expected')}"
        ) from None
