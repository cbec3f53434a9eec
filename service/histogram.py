"""A Prometheus histogram that observes many values at once."""

from __future__ import annotations

import numpy as np
from prometheus_client import Histogram


class BulkHistogram(Histogram):
    """A histogram with `observe_all`; in all else the one of prometheus_client."""

    def observe_all(self, values: np.ndarray) -> None:
        """Observe every value of a float array (n,), as `observe` would one by one.

        One increment per bucket that is hit, however many values there are.
        """
        self._raise_if_not_observable()  # type: ignore[no-untyped-call]
        if not len(values):
            return
        self._sum.inc(float(values.sum(dtype=float)))
        # the first bucket whose upper bound is not below the value
        places = np.searchsorted(np.asarray(self._upper_bounds), values, side="left")
        counts = np.bincount(places)
        for place in np.flatnonzero(counts).tolist():
            self._buckets[place].inc(int(counts[place]))
