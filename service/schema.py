"""What `POST /predict` takes and gives; the request's schema follows from the bundle's input."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from models.encoding import RawRows
from models.errors import InvalidInput
from models.manifest import Manifest
from models.runtime import Answers
from service.options import DEFAULTS, Options
from service.prediction import Prediction
from service.request import Left

Number = Annotated[float, Field(allow_inf_nan=False)]


def _whole(value: Any) -> Any:
    """JSON Schema takes 2.0 for a whole number, and so do clients that have floats only."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WholeNumber = Annotated[int, BeforeValidator(_whole)]


class OptionFields(BaseModel):
    """Everything that a request may hold beside its rows; the dataplane checks the values."""

    # unknown fields are refused by `_refuse_unknown`: pydantic would make an error of each
    model_config = ConfigDict(extra="allow")

    policy: str = DEFAULTS.policy
    max_exit: WholeNumber | None = DEFAULTS.max_exit
    deadline_ms: float | None = DEFAULTS.deadline_ms
    priority: str = DEFAULTS.priority
    all_exits: bool = DEFAULTS.all_exits
    stream: bool = False


def request_model(manifest: Manifest, max_rows: int) -> Any:
    """A pydantic model with `rows`, as the bundle reads them, and the options of a request.

    Rows are nested lists of numbers, texts, or images as base64. Lengths are part of the type, so
    that an error names the exact place in the document.
    """
    row: Any = str
    if manifest.preprocessing.kind == "numbers":
        row = Number
        for size in reversed(manifest.inputs[0].row_shape):
            row = Annotated[list[row], Field(min_length=size, max_length=size, fail_fast=True)]
    rows = Annotated[list[row], Field(min_length=1, max_length=max_rows, fail_fast=True)]
    return create_model(
        "PredictRequest",
        __base__=OptionFields,
        __doc__="Rows, and how they are to be answered.",
        rows=(rows, ...),
    )


def from_json(body: bytes, model: Any) -> Any:
    """The request that a JSON body holds; nothing is taken for what it only resembles.

    Raises
    ------
    InvalidInput
        Names the first field that does not follow the schema.
    """
    try:
        parsed = model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise InvalidInput(describe_mismatch(error)) from error
    _refuse_unknown(parsed)
    return parsed


def from_texts(fields: Mapping[str, str]) -> OptionFields:
    """The options that a form or a query holds, where every value is a text.

    Raises
    ------
    InvalidInput
        Names the first field that is unknown, or whose text means no such value.
    """
    try:
        parsed = OptionFields.model_validate_strings(fields)
    except ValidationError as error:
        raise InvalidInput(describe_mismatch(error)) from error
    _refuse_unknown(parsed)
    return parsed


def options_of(request: OptionFields) -> Options:
    """What a request that follows the schema chooses; the dataplane checks it."""
    return Options(**{field.name: getattr(request, field.name) for field in fields(Options)})


def raw_rows(rows: Any, manifest: Manifest) -> RawRows:
    """The rows of a request that follows the schema, as the dataplane takes them."""
    if manifest.preprocessing.kind == "numbers":
        with np.errstate(over="ignore"):  # what overflows float32 is refused as not finite
            return _array(rows)
    if manifest.preprocessing.kind == "text":
        texts: list[str] = rows
        return texts
    return [_decoded(row, text) for row, text in enumerate(rows)]


def _array(rows: Any) -> np.ndarray:
    try:
        return np.asarray(rows, dtype=np.float32)
    except ValueError:  # where the model leaves sizes open, the schema does too
        raise InvalidInput("rows: found rows of different shapes, expected one shape") from None


def _decoded(row: int, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise InvalidInput(
            f"rows[{row}]: found {_brief(text)}, expected an image file as base64"
        ) from None


def _refuse_unknown(request: BaseModel) -> None:
    for name in request.model_extra or ():
        known = ", ".join(repr(field) for field in type(request).model_fields)
        raise InvalidInput(f"found the unknown field {_brief(name)}, expected {known}")


def describe_mismatch(error: ValidationError) -> str:
    """One line for the first mistake: the field, what came, what was expected."""
    first = error.errors(include_url=False, include_context=True)[0]
    place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"]).lstrip(".")
    kind, found = first["type"], first["input"]
    expected = first["msg"].replace("Input should be", "expected")
    if kind == "json_invalid":
        return f"body: {first['msg']}; expected a JSON object with the field 'rows'"
    if kind in ("too_short", "too_long"):
        context = first["ctx"]
        bound = context.get("min_length", context.get("max_length"))
        words = "at least" if kind == "too_short" else "at most"
        return f"{place}: found {context['actual_length']} items, expected {words} {bound}"
    if kind == "missing":
        return f"{place}: missing; expected a JSON object with the field 'rows'"
    return f"{place or 'body'}: found {_brief(found)}, {expected}"


def response_body(prediction: Prediction, manifest: Manifest) -> dict[str, Any]:
    """The response: what `row_bodies` says of every row, in the order of the request."""
    return {
        "model": manifest.name,
        "version": manifest.version,
        "rows": list(row_bodies(prediction, manifest)),
        "milliseconds": prediction.milliseconds,
    }


def row_bodies(prediction: Prediction, manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Per row its labels, probabilities, exit, score, whether it is certified, and its time.

    Where it did not leave by the policy, `left` says why; where they were asked for, `all_exits`
    lists the answers of all exits that it came to.
    """
    routed = prediction.routed
    milliseconds = prediction.row_milliseconds.tolist()
    for row, number in enumerate(routed.exits.tolist()):
        body = {
            "labels": _label_set(routed.answers, row, manifest),
            "exit": number,
            "exits": manifest.depth,
            "score": float(routed.answers.score[row]),
            "certified": bool(prediction.certified[row]),
            "milliseconds": milliseconds[row],
            "probabilities": _probabilities(routed.answers, row, manifest),
        }
        if routed.left[row] != Left.POLICY:
            body["left"] = Left(routed.left[row]).name.lower()
        if prediction.passed:
            body["all_exits"] = _all_exits(prediction, row, manifest)
        yield body


def _all_exits(prediction: Prediction, row: int, manifest: Manifest) -> list[dict[str, Any]]:
    return [
        {
            "exit": number,
            "labels": _label_set(answers, row, manifest),
            "score": float(answers.score[row]),
            "probabilities": _probabilities(answers, row, manifest),
        }
        for number, answers in prediction.passed.items()
        if number <= prediction.reached[row]
    ]


def _probabilities(answers: Answers, row: int, manifest: Manifest) -> dict[str, float]:
    return dict(zip(manifest.labels, answers.probabilities[row].tolist(), strict=True))


def _label_set(answers: Answers, row: int, manifest: Manifest) -> list[dict[str, Any]]:
    """The labels of the set, the most probable first."""
    probabilities = answers.probabilities[row]
    chosen = np.flatnonzero(answers.labels[row])
    chosen = chosen[np.argsort(-probabilities[chosen], kind="stable")]
    return [{"name": manifest.labels[k], "probability": float(probabilities[k])} for k in chosen]


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
