r"""An e-process: evidence, row by row, that a mean is above zero.

References
----------
[1] Ville, "Etude critique de la notion de collectif", 1939: under the hypothesis the process
    reaches 1 / alpha at any time with probability at most alpha.
[2] Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86,
    2024: the bets (approximate GRAPA).
[3] Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for sequential change
    detection", 2023: bets that begin anew, so that a late change is not drowned in a long past.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

BLOCK = 200
"""Rows after which a new bettor begins."""
BETTORS = 64
"""That are kept; a mixture that loses some of them is only smaller."""
BOLDEST = 0.5
"""Share of the capital that one row may cost at most."""


@dataclass
class Bettor:
    """Capital since its first row: it bets that rows are above zero, by what it has seen itself.

    share : of the mixture's capital that it began with
    """

    share: float
    capital: float = 1.0
    rows: int = 0
    total: float = 0.0
    squares: float = 0.0

    def see(self, excess: float, least: float) -> None:
        """One row; `least` is the smallest value that a row can have, below 0."""
        bet = self._bet(least)
        self.capital *= 1.0 + bet * excess
        self.rows += 1
        self.total += excess
        self.squares += excess * excess

    def _bet(self, least: float) -> float:
        """From the rows before this one only."""
        rows = self.rows + 1
        mean = self.total / rows
        if mean <= 0:
            return 0.0
        # as if one row at either end had been seen before: the first bets are timid
        variance = (self.squares + least * least) / rows - mean * mean
        return min(mean / (variance + mean * mean), BOLDEST / -least)


class EProcess:
    r"""A mixture of bettors that begin one after another.

    .. math:: E_t = \sum_j w_j \prod_{s = j}^{t} (1 + \nu_s x_s), \qquad \sum_j w_j = 1

    While every row's mean, given the rows before it, is at most zero, E is a supermartingale that
    starts at 1, whatever the bets, which know only the past: it reaches 1 / alpha with probability
    at most alpha, however long it runs [1].

    Parameters
    ----------
    least : the smallest value of a row, below 0
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._begun = 0
        self._idle = 1.0  # share of those that have not begun
        self._bettors: list[Bettor] = []
        self.rows = 0
        self.largest = 1.0
        """The most that `value` has been."""

    @property
    def value(self) -> float:
        """E_t."""
        return self._idle + sum(b.share * b.capital for b in self._bettors)

    def see(self, excess: float) -> None:
        """One row: how much it is above what it may be in the mean."""
        if self.rows % BLOCK == 0:
            self._begin()
        for bettor in self._bettors:
            bettor.see(excess, self._least)
        self.rows += 1
        self.largest = max(self.largest, self.value)

    def state(self) -> dict[str, Any]:
        """What `restore` takes, as JSON can hold it."""
        bettors = [asdict(bettor) for bettor in self._bettors]
        return {
            "rows": self.rows,
            "largest": self.largest,
            "begun": self._begun,
            "bettors": bettors,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where another was.

        Raises
        ------
        KeyError, TypeError, ValueError
            When the state is none.
        """
        bettors = [Bettor(**saved) for saved in state["bettors"]]
        if any(not math.isfinite(b.share * b.capital) or b.capital < 0 for b in bettors):
            raise ValueError("expected capitals that are numbers and not below 0")
        self.rows, self.largest = int(state["rows"]), float(state["largest"])
        self._begun, self._bettors = int(state["begun"]), bettors
        self._idle = 1.0 / (self._begun + 1)

    def _begin(self) -> None:
        share = 1.0 / ((self._begun + 1) * (self._begun + 2))  # they sum to 1
        self._begun += 1
        self._idle = 1.0 / (self._begun + 1)
        self._bettors.append(Bettor(share))
        if len(self._bettors) > BETTORS:
            self._bettors.remove(min(self._bettors[:-1], key=lambda b: b.share * b.capital))
