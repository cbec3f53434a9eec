"""Whether an answer is right: as the version that it says answers offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from soak_mix import Asked
from soak_oracle import TOLERANCE, Oracle
from soak_parts import Part

from models.runtime import Answers


def mistake(asked: Asked, parts: Sequence[Part], oracles: Mapping[str, Oracle]) -> str:
    """What is wrong with an answer; empty when nothing is.

    Parameters
    ----------
    oracles : by version
    """
    rows = np.sort(np.concatenate([np.zeros(0, int), *(part.places for part in parts)]))
    if not np.array_equal(rows, np.arange(len(asked.places))):
        return f"found answers for the rows {rows.tolist()}, expected {len(asked.places)} once each"
    versions = sorted({part.version for part in parts})
    if len(versions) > 1:
        return f"found a mixture of the versions {versions}, expected one of them"
    if versions[0] not in oracles:
        return f"found the version {versions[0]!r}, expected one of {sorted(oracles)}"
    oracle = oracles[versions[0]]
    return next(filter(None, (_mistake_in(asked, part, oracle) for part in parts)), "")


def _mistake_in(asked: Asked, part: Part, oracle: Oracle) -> str:
    places, options = asked.places[part.places], asked.options
    expected = oracle.exits_of(options.policy, options.max_exit)[places]
    wrong = part.exits > expected if options.deadline_ms else part.exits != expected
    if wrong.any() or (part.exits < 1).any():
        return f"exits: found {part.exits.tolist()}, expected {expected.tolist()}"
    answers = oracle.answers_at(part.exits, places)
    if different := _difference(part.answers, answers):
        return different
    certified = oracle.certified(options, part.exits, answers.score)
    if not np.array_equal(part.certified, certified):
        return f"certified: found {part.certified.tolist()}, expected {certified.tolist()}"
    return _mistake_in_passed(asked, part, oracle) if options.all_exits else ""


def _mistake_in_passed(asked: Asked, part: Part, oracle: Oracle) -> str:
    """All rows are to tell of all exits; with a deadline, of those that they came to."""
    last = asked.options.max_exit or oracle.depth
    for number in range(1, last + 1):
        rows, answers = part.passed.get(number, (np.zeros(0, int), None))
        needed = part.places[part.exits >= number] if asked.options.deadline_ms else part.places
        if not set(needed.tolist()) <= set(rows.tolist()) or len(set(rows.tolist())) != len(rows):
            return f"all_exits: found exit {number} of rows {rows.tolist()}, expected {needed}"
        if answers is not None:
            places = asked.places[rows]
            right = oracle.answers_at(np.full(len(rows), number), places)
            if different := _difference(answers, right):
                return f"all_exits: exit {number}: {different}"
    beyond = sorted(number for number in part.passed if number > last)
    return f"all_exits: found {beyond}, expected none beyond {last}" if beyond else ""


def _difference(found: Answers, right: Answers) -> str:
    if not np.array_equal(found.labels, right.labels):
        return f"labels: found {found.labels.astype(int)}, expected {right.labels.astype(int)}"
    for name in ("probabilities", "score"):
        far = float(np.abs(getattr(found, name) - getattr(right, name)).max())
        if not far <= TOLERANCE:  # what is not a number fails every comparison
            return f"{name}: found a difference of {far:g}, expected at most {TOLERANCE:g}"
    return ""
