"""The deadline of a call, as the deadline of the request in it."""

from __future__ import annotations

from dataclasses import replace

from models.errors import DeadlineExceeded
from service.inference import InferRequest
from service.options import LONGEST_DEADLINE_MS
from service.parameters import TIMEOUT


def within(request: InferRequest, seconds: float | None) -> InferRequest:
    """The request, to be answered within `seconds`, or sooner where it says so; None for no end.

    What is no good in its own deadline stays, to be refused where all parameters are.

    Raises
    ------
    DeadlineExceeded
        When no time is left.
    """
    if seconds is None or seconds * 1000 > LONGEST_DEADLINE_MS:
        return request
    if seconds <= 0:
        raise DeadlineExceeded("the call's deadline passed before its request was read")
    left, parameters = seconds * 1000, dict(request.parameters)
    timeout, given = parameters.get(TIMEOUT, 0), parameters.get("deadline_ms")
    if timeout and given is not None:
        return request
    if timeout:
        if isinstance(timeout, str | bool) or not timeout / 1000 > left:
            return request
        del parameters[TIMEOUT]
    elif given is not None and (isinstance(given, str | bool) or not given > left):
        return request
    return replace(request, parameters={**parameters, "deadline_ms": left})
