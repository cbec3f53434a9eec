"""The JSON answers of the HTTP API, as types: for its description, never in the way of a row."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class LabelAnswer(BaseModel):
    """One label of the answered set."""

    name: str
    probability: float


class ExitAnswer(BaseModel):
    """What one exit says of a row."""

    exit: int
    labels: list[LabelAnswer]
    score: float
    probabilities: dict[str, float]


class RowAnswer(BaseModel):
    """What a row is answered with; `left` only where it did not leave by the policy."""

    labels: list[LabelAnswer]
    exit: int
    exits: int
    score: float
    certified: bool
    milliseconds: float
    probabilities: dict[str, float]
    left: Literal["deadline", "overload"] = "deadline"
    all_exits: list[ExitAnswer] = []


class StreamedRow(RowAnswer):
    """One line of a stream; `row` is its place in the request."""

    row: int
    version: str


class PredictResponse(BaseModel):
    """The rows in the order of the request."""

    model: str
    version: str
    rows: list[RowAnswer]
    milliseconds: float


class ExitShare(BaseModel):
    """Rows that left at one exit."""

    exit: int
    rows: int
    share: float


class Stats(BaseModel):
    """What was answered since the model was loaded; `milliseconds` are percentiles."""

    model: str
    version: str
    ready: bool
    reason: str
    certificate: str
    rows: int
    exits: list[ExitShare]
    requests: dict[str, int]
    milliseconds: dict[str, float] | None
    uptime_seconds: float


class Live(BaseModel):
    """The server runs."""

    live: bool


class Ready(BaseModel):
    """All models answer; `notes`, by model, where one fell back to full depth."""

    ready: bool
    notes: dict[str, str] = {}


class Error(BaseModel):
    """What was found, what was expected, and the way on; the log knows the request by its id."""

    error: str
    request_id: str
