"""What a request may choose: the policy, how deep to go, until when, how urgently."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.errors import InvalidInput
from models.manifest import Manifest
from models.policy import Policy
from service.request import Priority

LONGEST_DEADLINE_MS = 3_600_000
PRIORITIES = {"interactive": Priority.INTERACTIVE, "batch": Priority.BATCH}
"""By their names; shadow rows are the service's own."""


@dataclass(frozen=True)
class Options:
    """As the client sent them, of the right types; the functions below check them.

    policy : `certified`, `full` or `exit:<k>`
    max_exit : rows that have come to this exit leave there; None for the last
    deadline_ms : milliseconds from the request's arrival in which its rows are answered
    priority : `interactive` or `batch`
    all_exits : give every exit's answer, down to `max_exit`
    """

    policy: str = "certified"
    max_exit: int | None = None
    deadline_ms: float | None = None
    priority: str = "interactive"
    all_exits: bool = False


DEFAULTS = Options()


def thresholds_of(options: Options, manifest: Manifest, exits: Sequence[int]) -> np.ndarray:
    """The score from which a row leaves behind each stage.

    Parameters
    ----------
    exits : the exit's number behind every stage, S of them; (K,) where the service has exits off

    Returns
    -------
    float32 (S,): infinite where an exit is off, -infinite at the last stage and from `max_exit` on

    Raises
    ------
    InvalidInput
        When the bundle or the service has no such policy or exit.
    """
    policy = parse_policy(options.policy, manifest)
    last = _last_exit(options, manifest)
    _refuse_missing("policy", _exit_of(options.policy) or manifest.depth, exits)
    _refuse_missing("max_exit", last, exits)
    thresholds = [*map(_threshold, policy.thresholds), -math.inf]
    reached = [-math.inf if number >= last else thresholds[number - 1] for number in exits]
    return np.array(reached, np.float32)


def parse_policy(name: str, manifest: Manifest) -> Policy:
    """The policy that a request asks for by name."""
    if name == "certified":
        return manifest.policy
    if name == "full":
        return Policy.full(manifest.depth)
    number = _exit_of(name)
    if number is not None and 1 <= number <= manifest.depth:
        return Policy.at_exit(number, manifest.depth)
    raise InvalidInput(
        f"policy: found {name[:40]!r}, expected 'certified', 'full' or 'exit:<k>' with k from 1 "
        f"to {manifest.depth}"
    )


def _exit_of(name: str) -> int | None:
    match = re.fullmatch(r"exit:([0-9]{1,4})", name)
    return int(match[1]) if match else None


def _last_exit(options: Options, manifest: Manifest) -> int:
    last = manifest.depth if options.max_exit is None else options.max_exit
    if not 1 <= last <= manifest.depth:
        raise InvalidInput(
            f"max_exit: found {_brief(last)}, expected a whole number from 1 to {manifest.depth}"
        )
    return last


def _threshold(threshold: float | None) -> float:
    if threshold is None:
        return math.inf
    return threshold if threshold > 0 else -math.inf  # a score is at least 0: every row leaves


def _refuse_missing(field: str, number: int, exits: Sequence[int]) -> None:
    if number not in exits:
        raise InvalidInput(
            f"{field}: found exit {number}, but this service runs with exits off: expected exit "
            f"{exits[-1]}, or no {field}"
        )


def deadline_of(options: Options, arrival: float) -> float:
    """The deadline on the clock on which the request arrived at `arrival`; milliseconds.

    Infinite without one.
    """
    span = options.deadline_ms
    if span is None:
        return math.inf
    if not 0 < span <= LONGEST_DEADLINE_MS:  # what is not a number fails every comparison
        raise InvalidInput(
            f"deadline_ms: found {_brief(span)}, expected a number of milliseconds over 0 and up "
            f"to {LONGEST_DEADLINE_MS}, one hour"
        )
    return arrival + span


def priority_of(options: Options) -> Priority:
    """The priority by its name."""
    if options.priority not in PRIORITIES:
        known = " or ".join(repr(name) for name in PRIORITIES)
        raise InvalidInput(f"priority: found {options.priority[:40]!r}, expected {known}")
    return PRIORITIES[options.priority]


def _brief(number: float) -> str:
    text = str(number)
    return text if len(text) <= 40 else f"{text[:37]}..."
