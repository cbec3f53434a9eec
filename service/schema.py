"""The JSON bodies of `POST /predict`; the request's schema follows from the bundle's input."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from models.encoding import RawRows
from models.errors import InvalidInput
from models.manifest import Manifest
from service.dataplane import Prediction

Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Text = Annotated[str, Field(strict=True)]


def request_model(manifest: Manifest, max_rows: int) -> Any:
    """A pydantic model with `rows`, as the bundle reads them, and `policy`.

    Rows are nested lists of numbers, texts, or images as base64. Lengths are part of the type, so
    that an error names the exact place in the document.
    """
    row: Any = Text
    if manifest.preprocessing.kind == "numbers":
        row = Number
        for size in reversed(manifest.inputs[0].row_shape):
            row = Annotated[list[row], Field(min_length=size, max_length=size, fail_fast=True)]
    rows = Annotated[list[row], Field(min_length=1, max_length=max_rows, fail_fast=True)]
    return create_model(
        "PredictRequest",
        # unknown fields are refused by `refuse_unknown`: pydantic would make an error of each
        __config__=ConfigDict(extra="allow"),
        rows=(rows, ...),
        policy=(str, "certified"),
    )


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


def refuse_unknown(request: BaseModel) -> None:
    """Refuse a request with a field that has no meaning."""
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
    """The response: per row its labels, probabilities, exit, score, and whether it is certified."""
    answers = prediction.routed.answers
    columns = zip(
        answers.probabilities,
        answers.labels,
        prediction.routed.exits.tolist(),
        answers.score.tolist(),
        prediction.certified.tolist(),
        strict=True,
    )
    return {
        "model": manifest.name,
        "rows": [
            {
                "labels": _label_set(probabilities, labels, manifest.labels),
                "exit": exit_number,
                "exits": manifest.depth,
                "score": score,
                "certified": certified,
                "probabilities": dict(zip(manifest.labels, probabilities.tolist(), strict=True)),
            }
            for probabilities, labels, exit_number, score, certified in columns
        ],
        "milliseconds": prediction.milliseconds,
    }


def _label_set(
    probabilities: np.ndarray, labels: np.ndarray, names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The labels of the set, the most probable first."""
    chosen = np.flatnonzero(labels)
    chosen = chosen[np.argsort(-probabilities[chosen], kind="stable")]
    return [{"name": names[k], "probability": float(probabilities[k])} for k in chosen]


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
