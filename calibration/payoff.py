"""Leaves out the exits that do not pay, before anything is certified."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile

import numpy as np

from calibration.certificate import fixed_sequence
from calibration.costs import without_exit
from calibration.guarantee import Guarantees
from calibration.p_values import promise_p_value
from calibration.placed_exits import PlacedExits
from calibration.placement import Placement
from calibration.plan import Payoff, mean_milliseconds, payoffs, traffic_of
from calibration.steps import Steps
from calibration.thresholds import policy_path
from models.policy import Policy
from models.runtime import Answers, at_exits

ROUNDS = 9
TRIES = 3


def paying_exits(
    place: Callable[[Mapping[int, str]], Placement],
    opened: Callable[[Placement], PlacedExits],
    steps: Steps,
    guarantees: Guarantees,
) -> PlacedExits:
    """The exits of the quickest of a few placements, without those that do not pay.

    What does not pay makes room for other layers: they are placed again without it.

    Parameters
    ----------
    place : refused layers and why -> a placement without them
    opened : the exits of a placement
    """
    refused: dict[int, str] = {}
    found: list[tuple[float, int, PlacedExits]] = []
    for _ in range(TRIES):
        placed = opened(place(refused))
        kept, milliseconds = without_unpaying(placed, steps, guarantees)
        found.append((milliseconds, len(found), kept))
        dropped = set(placed.placement.exits).difference(kept.placement.exits)
        if not dropped:
            break
        refused |= {layer: kept.placement.left_out[layer] for layer in dropped}
    _, _, quickest = min(found)
    known = {k: why for k, why in refused.items() if k not in quickest.placement.exits}
    return quickest.moved(quickest.placement.without(known))


def without_unpaying(
    exits: PlacedExits, steps: Steps, guarantees: Guarantees
) -> tuple[PlacedExits, float]:
    """The exits that save more than they cost on the tune split, at the largest batch.

    Judged at the policy of the path where the certificate would end if the tune split were its
    rows. One exit goes at a time, the one that loses most.

    Returns
    -------
    The exits, and the milliseconds of a row under that policy.
    """
    costs, _ = exits.assembled(ROUNDS)
    while True:
        answers = exits.answers("tune")
        path = policy_path(exits.curves(answers), exits.saved_time) or [Policy.full(exits.depth)]
        policy = _foreseen(path, answers, exits.full("tune"), steps.labels("tune"), guarantees)
        traffic = traffic_of(policy, [exit_answers.score for exit_answers in answers])
        found = payoffs(traffic, costs)
        worst = min(found, key=lambda payoff: payoff.saving - payoff.cost, default=None)
        if worst is None or worst.pays:
            return exits, mean_milliseconds(traffic, costs)
        layer = exits.placement.exits[worst.exit - 1]
        exits = exits.moved(exits.placement.without({layer: unpaying(worst)}))
        costs = without_exit(costs, worst.exit)


def _foreseen(
    path: Sequence[Policy],
    answers: Sequence[Answers],
    full: Answers,
    truth: np.ndarray,
    guarantees: Guarantees,
) -> Policy:
    """The last policy that passes the tests; with too few rows for any, that loses little enough.

    What it loses is then at most epsilon on these rows, without any statistics.
    """
    scores = [exit_answers.score for exit_answers in answers]

    def answered(policy: Policy) -> np.ndarray:
        return at_exits(answers, policy.route(scores)).labels

    def p_value(policy: Policy) -> float:
        labels, delta = answered(policy), guarantees.delta
        return max(promise_p_value(p, delta, labels, full.labels, truth) for p in promises)

    def kept(policy: Policy) -> bool:
        labels = answered(policy)
        return all(p.row_losses(labels, full.labels, truth).mean() <= p.epsilon for p in promises)

    promises = guarantees.promises
    passed = fixed_sequence(map(p_value, path), guarantees.delta)
    passed = passed or sum(1 for _ in takewhile(kept, path))
    return path[max(passed, 1) - 1]


def unpaying(payoff: Payoff) -> str:
    """Why an exit is left out."""
    if not payoff.cost:
        return "does not pay: no row would come there, all leave before it"
    return (
        f"does not pay: it would cost {payoff.cost:.2g} ms per row and save {payoff.saving:.2g} ms"
    )
