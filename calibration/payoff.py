"""Leaves out the exits that do not pay, before anything is certified."""

from __future__ import annotations

from calibration.costs import without_exit
from calibration.guarantee import Guarantees
from calibration.p_values import promise_p_value
from calibration.placed_exits import PlacedExits
from calibration.plan import Payoff, payoffs, traffic_of
from calibration.steps import Steps
from calibration.thresholds import policy_path
from models.policy import Policy
from models.runtime import at_exits

ROUNDS = 9


def without_unpaying(exits: PlacedExits, steps: Steps, guarantees: Guarantees) -> PlacedExits:
    """The exits that save more than they cost on the tune split, at the largest batch.

    Judged at the most eager policy of the path that would pass the certificate's tests on the tune
    split: about where the certificate will end. One exit goes at a time, the one that loses most.
    """
    if exits.depth == 1:
        return exits
    costs, _ = exits.assembled(ROUNDS)
    truth, full = steps.labels("tune"), exits.full("tune").labels
    while exits.depth > 1:
        answers = exits.answers("tune")
        scores = [exit_answers.score for exit_answers in answers]

        def kept(policy: Policy) -> bool:
            answered = at_exits(answers, policy.route(scores)).labels  # noqa: B023
            return all(
                promise_p_value(promise, guarantees.delta, answered, full, truth)
                <= guarantees.delta
                for promise in guarantees.promises
            )

        path = policy_path(exits.curves(answers), exits.saved_time)
        eager = [policy for policy in path if kept(policy)]
        policy = eager[-1] if eager else path[0]
        worst = min(payoffs(traffic_of(policy, scores), costs), key=lambda p: p.saving - p.cost)
        if worst.pays:
            break
        layer = exits.placement.exits[worst.exit - 1]
        exits = exits.moved(exits.placement.without({layer: unpaying(worst)}))
        costs = without_exit(costs, worst.exit)
    return exits


def unpaying(payoff: Payoff) -> str:
    """Why an exit is left out."""
    if not payoff.cost:
        return "does not pay: no row would come there, all leave before it"
    return (
        f"does not pay: it would cost {payoff.cost:.2g} ms per row and save {payoff.saving:.2g} ms"
    )
