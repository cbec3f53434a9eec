"""The parameters of an inference request, as options.

Beside offramp's own, those of Triton's clients are understood: `timeout` in microseconds, and
`priority` as a number, of which 1 is the highest and 0 the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.errors import InvalidInput
from service.options import LONGEST_DEADLINE_MS, Options
from service.tensors import brief

TIMEOUT = "timeout"
"""Triton's word for a deadline, in microseconds; 0 for none."""
IGNORED = frozenset(
    {"binary_data_output", "triton_enable_empty_final_response", "triton_final_response"}
)
"""About the protocol, and looked at there."""
_LOWEST_PRIORITY = 2**64 - 1
_TYPES: dict[str, tuple[type, ...]] = {
    "policy": (str,),
    "max_exit": (int,),
    "deadline_ms": (int, float),
    "priority": (str, int),
    TIMEOUT: (int,),
}
_WORDS = {str: "a text", int: "a whole number", float: "a number"}


def options_from(parameters: Mapping[str, Any]) -> Options:
    """The options that a request's parameters choose; the dataplane checks their values.

    Raises
    ------
    InvalidInput
        When a parameter is unknown, or of another type.
    """
    for name, value in parameters.items():
        if name not in IGNORED:
            _check_type(name, value)
    timeout = _bounded(TIMEOUT, parameters.get(TIMEOUT, 0), 1000 * LONGEST_DEADLINE_MS)
    deadline = parameters.get("deadline_ms")
    if timeout and deadline is not None:
        raise InvalidInput(
            f"parameters: found both 'deadline_ms' and {TIMEOUT!r}, expected one of them"
        )
    return Options(
        policy=parameters.get("policy", Options.policy),
        max_exit=parameters.get("max_exit", Options.max_exit),
        deadline_ms=timeout / 1000 if timeout else deadline,
        priority=_priority(parameters.get("priority", Options.priority)),
    )


def _check_type(name: str, value: object) -> None:
    if name not in _TYPES:
        raise InvalidInput(
            f"parameters: found the unknown {brief(name)}, expected any of {', '.join(_TYPES)}"
        )
    if isinstance(value, bool) or not isinstance(value, _TYPES[name]):
        expected = " or ".join(_WORDS[kind] for kind in _TYPES[name])
        raise InvalidInput(f"parameters: {name} is {brief(value)}, expected {expected}")


def _priority(value: str | int) -> str:
    if isinstance(value, str):
        return value
    return "interactive" if _bounded("priority", value, _LOWEST_PRIORITY) <= 1 else "batch"


def _bounded(name: str, value: int, most: int) -> int:
    if not 0 <= value <= most:
        raise InvalidInput(f"parameters: {name} is {brief(value)}, expected 0 to {most}")
    return value
