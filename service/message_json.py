"""Protobuf messages as JSON documents, the way Triton's REST door writes them.

Fields keep their names and are there even where they are empty; 64-bit integers are numbers, though
protobuf's own JSON has them as texts.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict

_LONG = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)


def message_document(message: Any) -> dict[str, Any]:
    """The document, as a writer of JSON takes it."""
    document: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return _with_numbers(document, message.DESCRIPTOR)


def _with_numbers(document: dict[str, Any], descriptor: Descriptor) -> dict[str, Any]:
    fields = descriptor.fields_by_name
    return {key: _converted(value, fields[key]) for key, value in document.items()}


def _converted(value: Any, field: FieldDescriptor) -> Any:
    """The value of one field; maps are dictionaries whose values are of the entry's type."""
    if isinstance(value, list):
        return [_converted(item, field) for item in value]
    if field.message_type and field.message_type.GetOptions().map_entry:
        held = field.message_type.fields_by_name["value"]
        return {key: _converted(item, held) for key, item in value.items()}
    if field.message_type:
        return _with_numbers(value, field.message_type)
    return int(value) if field.cpp_type in _LONG else value
