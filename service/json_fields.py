"""JSON documents from outside, and their fields, each checked for its type when it is read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic_core import from_json

from models.errors import InvalidInput
from service.tensors import brief

_WORDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "a whole number",
}


def parse_object(content: bytes) -> dict[str, Any]:
    """The JSON object that these bytes are.

    Raises
    ------
    InvalidInput
        When they are no JSON, are nested too deeply, hold NaN, or are not an object.
    """
    try:
        document = from_json(content, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        _, _, place = str(error).rpartition(" at ")  # "line 1 column 2"
        raise InvalidInput(
            f"body: found what is no JSON, or nested too deeply, at {place}, expected a JSON object"
        ) from None
    if not isinstance(document, dict):
        raise InvalidInput(f"body: found {brief(document)}, expected a JSON object")
    return document


def field(document: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    """A field of exactly this type; None where it is null or not there."""
    value = document.get(key)
    if value is None or type(value) is kind:
        return value
    raise InvalidInput(f"{where}: found {key} {brief(value)}, expected {_WORDS[kind]}")


def objects(
    document: Mapping[str, Any], key: str, known: Collection[str], where: str
) -> list[dict[str, Any]]:
    """The objects in a list, without unknown fields; none where the list is not there."""
    entries: list[Any] = field(document, key, list, where) or []
    for entry in entries:
        if not isinstance(entry, dict):
            raise InvalidInput(f"{key}: found {brief(entry)}, expected JSON objects")
        check_fields(entry, known, key)
    return entries


def check_fields(document: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuse a field that has no meaning."""
    for key in document:
        if key not in known:
            raise InvalidInput(
                f"{where}: found the unknown field {brief(key)}, expected any of {', '.join(known)}"
            )
