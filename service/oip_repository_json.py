"""What repository calls say in their bodies; an empty body says nothing."""

from __future__ import annotations

from typing import Any

from models.errors import Unsupported
from service.json_fields import check_fields, field, parse_object
from service.tensors import brief

DEPENDENTS = "unload_dependents"
"""Clients always send it; no model here has dependents."""


def asks_for_ready(body: bytes) -> bool:
    """Whether an index is to list only models that are ready."""
    document = _document(body, "ready")
    return bool(field(document, "ready", bool, "index"))


def check_change(body: bytes) -> None:
    """Refuse to load a model otherwise than its bundle says.

    Raises
    ------
    InvalidInput
        When the body is no JSON object with nothing but parameters.
    Unsupported
        When a parameter asks for another configuration, or other files.
    """
    parameters = field(_document(body, "parameters"), "parameters", dict, "body") or {}
    for key in parameters:
        if key != DEPENDENTS:
            raise Unsupported(
                f"parameters: found {brief(key)}, expected none: a model is loaded as its bundle "
                "says"
            )


def _document(body: bytes, known: str) -> dict[str, Any]:
    document = parse_object(body) if body.strip() else {}
    check_fields(document, (known,), "body")
    return document
