"""The baselines: other ways to choose policies over the same exits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import entr

from calibration.quality import f1_of
from models.policy import Policy
from models.runtime import Answers

Score = Callable[[Answers], np.ndarray]
Routes = Callable[[Sequence[Answers]], list[np.ndarray]]

SETTINGS = 200  # of a swept parameter
GREEDY_SETTINGS = 40  # thresholds per exit that the search may choose from


@dataclass(frozen=True)
class Family:
    """A way to choose policies, with every setting of its one parameter.

    routes : K answers to any n rows -> the rows' exits for every setting, int (n,) in 1..K each,
        from the most cautious setting to the most eager
    """

    method: str
    routes: Routes


def policy_family(method: str, policies: Iterable[Policy], score: Score | None = None) -> Family:
    """Policies in order, over the answers' own score or another one."""
    return Family(method, partial(_route, tuple(policies), score or own_score))


def baselines(
    tune: Sequence[Answers], truth: np.ndarray, until: np.ndarray, settings: int = SETTINGS
) -> tuple[Family, ...]:
    """Every baseline, tuned on one split.

    Parameters
    ----------
    tune : K, one per exit, over n rows
    truth : bool (n, L), the true label sets
    until : float (K,), computed time of a row that leaves there, as a share of full depth

    References
    ----------
    Entropy: Teerapittayanon, McDanel and Kung, "BranchyNet", ICPR 2016. Maximum probability:
    Schwartz et al., "The right tool for the job", ACL 2020. One quantile: Huang et al.,
    "Multi-scale dense networks for resource efficient image classification", ICLR 2018.
    """
    return (
        _swept("one threshold", own_score, tune, settings),
        _swept("entropy", entropy_score, tune, settings),
        _swept("maximum probability", maximum_probability, tune, settings),
        policy_family("one quantile", quantile_policies(tune, settings)),
        Family("patience", patience_routes),
        policy_family("greedy search", greedy_policies(tune, truth, until)),
    )


def own_score(answers: Answers) -> np.ndarray:
    """The score that the bundle computes: float32 (n,)."""
    return answers.score


def entropy_score(answers: Answers) -> np.ndarray:
    """1 minus the mean entropy of a row's labels, in bits: float32 (n,) in [0, 1]."""
    p = answers.probabilities
    bits = (entr(p) + entr(1 - p)).mean(axis=1) / np.log(2)
    return np.asarray(np.clip(1 - bits, 0, 1), np.float32)


def maximum_probability(answers: Answers) -> np.ndarray:
    """The largest probability of a row: float32 (n,).

    It says how sure the surest label is, and nothing of the others that make up a label set; it is
    here because it is what single-label early exit uses.
    """
    return np.asarray(answers.probabilities.max(axis=1))


def sweep_policies(scores: Sequence[np.ndarray], settings: int = SETTINGS) -> list[Policy]:
    """One threshold for all exits, lowered over the quantiles of all exits' scores together.

    Parameters
    ----------
    scores : K x float (n,); the last exit's are not looked at
    """
    depth = len(scores)
    if depth == 1:
        return [Policy.full(depth)]
    shares = np.linspace(1, 0, settings)
    grid = np.quantile(np.concatenate(scores[:-1]), shares, method="nearest")
    sweep = [Policy((float(threshold),) * (depth - 1)) for threshold in grid]
    return list(dict.fromkeys([Policy.full(depth), *sweep]))


def quantile_policies(tune: Sequence[Answers], settings: int = SETTINGS) -> list[Policy]:
    """The same share of the rows that arrive at an exit leaves there; the share grows.

    Exits where no row of the tune split arrives keep no row either: their threshold is 0.
    """
    shares = np.linspace(0, 1, settings)[1:]
    policies = [_quantile_policy(tune, share) for share in shares]
    return list(dict.fromkeys([Policy.full(len(tune)), *policies]))


def patience_routes(answers: Sequence[Answers]) -> list[np.ndarray]:
    """A row leaves once its label set has stayed the same p times in a row; p = K - 1, ..., 1.

    With p = 1 a row leaves at the first exit that agrees with the one before it; none ever leaves
    at exit 1, and with p = K - 1 all run to exit K.

    References
    ----------
    Zhou et al., "BERT loses patience: fast and robust inference with early exit", NeurIPS 2020;
    label sets take the place of classes.
    """
    depth = len(answers)
    streaks = np.zeros((depth, len(answers[0])), int)
    for k in range(1, depth):
        same = (answers[k].labels == answers[k - 1].labels).all(axis=1)
        streaks[k] = np.where(same, streaks[k - 1] + 1, 0)
    routes = []
    for patience in range(max(depth - 1, 1), 0, -1):
        leaves = streaks >= patience
        leaves[-1] = True
        routes.append(leaves.argmax(axis=0) + 1)
    return routes


def greedy_policies(
    tune: Sequence[Answers],
    truth: np.ndarray,
    until: np.ndarray,
    settings: int = GREEDY_SETTINGS,
) -> list[Policy]:
    """Lower one exit's threshold at a time, whichever loses least micro-F1 per time saved.

    From full depth until nothing can be saved any more. A threshold may be lowered over several
    quantiles at once; those in between are on the path too.

    Parameters
    ----------
    tune, truth, until : as for `baselines`
    settings : quantiles of an exit's score that its threshold may be
    """
    search = _GreedySearch(tune, truth, until, settings)
    policies = [Policy.full(len(tune))]
    while (move := search.best_move()) is not None:
        policies += search.make(*move)
    return policies


class _GreedySearch:
    """Where every row leaves, and what lowering a threshold would change."""

    def __init__(
        self, tune: Sequence[Answers], truth: np.ndarray, until: np.ndarray, settings: int
    ) -> None:
        self._until = until
        self._hits = np.stack([(a.labels & truth).sum(axis=1) for a in tune])  # (K, n)
        self._sizes = np.stack([a.labels.sum(axis=1) + truth.sum(axis=1) for a in tune])  # (K, n)
        shares = np.linspace(1, 0, settings)
        scores = [a.score for a in tune[:-1]]
        self._grids = [np.unique(np.quantile(s, shares, method="nearest"))[::-1] for s in scores]
        # of the thresholds, the first that a row's score reaches: (K - 1) x int (n,)
        self._level = [
            np.searchsorted(-grid, -s) for grid, s in zip(self._grids, scores, strict=True)
        ]
        self._taken = [0] * len(scores)  # thresholds gone through so far
        self._index = np.full(len(truth), len(tune) - 1)  # of the exit where a row leaves

    def best_move(self) -> tuple[int, int] | None:
        """The exit's index and how many thresholds to have gone through there; None at the end."""
        best, move = np.inf, None
        for k, grid in enumerate(self._grids):
            price = self._prices(k, len(grid))
            cheapest = int(np.argmin(price))
            if price[cheapest] < best:
                best, move = price[cheapest], (k, cheapest + 1)
        return move

    def make(self, k: int, taken: int) -> list[Policy]:
        """Lower the threshold of the exit with index k: every policy on the way."""
        policies = []
        while self._taken[k] < taken:
            self._taken[k] += 1
            policies.append(self._policy())
        self._index[(self._index > k) & (self._level[k] < taken)] = k
        return policies

    def _prices(self, k: int, levels: int) -> np.ndarray:
        """Micro-F1 lost per time saved, by how far the threshold is lowered: float (levels,)."""
        rows = np.flatnonzero(self._index > k)
        now = self._index[rows]

        def change(difference: np.ndarray) -> np.ndarray:
            return np.bincount(self._level[k][rows], difference, minlength=levels).cumsum()

        hits, sizes = self._sum(self._hits), self._sum(self._sizes)
        hits_then = hits + change(self._hits[k, rows] - self._hits[now, rows])
        sizes_then = sizes + change(self._sizes[k, rows] - self._sizes[now, rows])
        lost = f1_of(hits, sizes) - f1_of(hits_then, sizes_then)
        saved = change(self._until[now] - self._until[k])
        return np.where(saved > 0, lost / np.where(saved > 0, saved, 1), np.inf)

    def _sum(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(values[self._index, np.arange(values.shape[1])].sum())

    def _policy(self) -> Policy:
        pairs = zip(self._grids, self._taken, strict=True)
        return Policy(tuple(float(grid[n - 1]) if n else None for grid, n in pairs))


def _swept(method: str, score: Score, tune: Sequence[Answers], settings: int) -> Family:
    return policy_family(method, sweep_policies([score(a) for a in tune], settings), score)


def _route(
    policies: Sequence[Policy], score: Score, answers: Sequence[Answers]
) -> list[np.ndarray]:
    scores = [score(exit_answers) for exit_answers in answers]
    return [policy.route(scores) for policy in policies]


def _quantile_policy(tune: Sequence[Answers], share: float) -> Policy:
    stays = np.ones(len(tune[0]), bool)
    thresholds = []
    for answers in tune[:-1]:
        arriving = np.sort(answers.score[stays])
        leaving = int(np.ceil(share * len(arriving)))
        threshold = arriving[-leaving] if leaving else 0.0
        thresholds.append(float(threshold))
        stays &= answers.score < threshold
    return Policy(tuple(thresholds))
