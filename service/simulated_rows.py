"""The rows of a simulation: how far each has come, and when its request is done.

What `service.desk` does for the engine, without answers. As there, rows take up room until their
whole request is answered, and a request fails when one of its rows does.
"""

from __future__ import annotations

import numpy as np

from service.scheduler import Scheduler
from service.simulated_load import Arrivals


class SimulatedRows:
    """Columns over the m rows that arrive, request after request.

    answered : float (m,), milliseconds on the clock; NaN without an answer
    exits : int (m,), the stage behind which a row was answered; 0 without an answer
    refused : bool (m,), not admitted
    cut_short : bool (m,), answered early to be in time
    """

    def __init__(self, arrivals: Arrivals, scheduler: Scheduler) -> None:
        self.answered = np.full(arrivals.rows, np.nan)
        self.exits = np.zeros(arrivals.rows, int)
        self.refused = np.zeros(arrivals.rows, bool)
        self.cut_short = np.zeros(arrivals.rows, bool)
        self._scheduler = scheduler
        self._arrivals = arrivals
        self._starts = arrivals.starts
        self._owner = np.repeat(np.arange(len(arrivals.sizes)), arrivals.sizes)
        self._on_their_way = np.zeros(len(arrivals.sizes), int)  # by request
        self._reached = np.zeros(arrivals.rows, int)  # the last stage that a row ran through
        self._ids = np.full(arrivals.rows, -1, np.int64)
        self._row_of = np.zeros(scheduler.rows.capacity, int)  # by the scheduler's slots

    def refuse(self, request: int) -> None:
        """The request is not admitted."""
        self.refused[self._span(request)] = True

    def admit(self, request: int, ids: np.ndarray) -> None:
        """The scheduler knows the request's rows as `ids`."""
        rows = self._span(request)
        self._ids[rows] = ids
        self._row_of[self._scheduler.rows.slots(ids)] = np.arange(rows.start, rows.stop)
        self._on_their_way[request] = len(ids)

    def ran(self, ids: np.ndarray, stage: int, now: float) -> np.ndarray:
        """Rows ran through a stage: those that leave there are answered.

        Returns
        -------
        bool (b,): which go on
        """
        present = self._scheduler.rows.present(ids)
        rows = self._row_of[self._scheduler.rows.slots(ids)]
        self._reached[rows[present]] = stage
        goes_on = present & (self._arrivals.exits[rows] > stage)
        self._answer(rows[present & ~goes_on], now)
        return np.asarray(goes_on)

    def give_up(self, ids: np.ndarray, now: float) -> None:
        """Rows have no time for a deeper answer; without any, their requests fail."""
        ids = ids[self._scheduler.rows.present(ids)]
        rows = self._row_of[self._scheduler.rows.slots(ids)]
        self._fail(np.unique(self._owner[rows[self._reached[rows] == 0]]))
        rows = rows[self._scheduler.rows.present(ids)]
        self.cut_short[rows] = True
        self._answer(rows, now)

    def expire(self, request: int, now: float) -> None:
        """The request's deadline is there."""
        if self._on_their_way[request]:
            rows = self._span(request)
            self.give_up(self._ids[rows][self.exits[rows] == 0], now)

    def _answer(self, rows: np.ndarray, now: float) -> None:
        if not len(rows):
            return
        self.answered[rows] = now
        self.exits[rows] = self._reached[rows]
        owners = self._owner[rows]
        np.subtract.at(self._on_their_way, owners, 1)
        self._close(np.unique(owners[self._on_their_way[owners] == 0]))

    def _fail(self, requests: np.ndarray) -> None:
        rows = self._of(requests)
        self.answered[rows] = np.nan
        self.exits[rows] = 0
        self.cut_short[rows] = False
        self._on_their_way[requests] = 0
        self._close(requests)

    def _close(self, requests: np.ndarray) -> None:
        if len(requests):
            self._scheduler.remove(self._ids[self._of(requests)])

    def _span(self, request: int) -> slice:
        """The rows of one request."""
        start = int(self._starts[request])
        return slice(start, start + int(self._arrivals.sizes[request]))

    def _of(self, requests: np.ndarray) -> np.ndarray:
        """The rows of some requests."""
        sizes = self._arrivals.sizes[requests]
        shift = self._starts[requests] - (np.cumsum(sizes) - sizes)
        return np.asarray(np.repeat(shift, sizes) + np.arange(sizes.sum()))
