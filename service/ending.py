"""How the whole server ends when it can answer nothing any more.

A worker that ends is replaced by BentoML's supervisor, or missed by it for ten seconds, and either
way the platform learns nothing. So the worker ends with a status of its own, and the supervisor
ends with it, at once and with the same status. It also ends when the worker was killed.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

LANE_DIED = 70
"""Exit status; EX_SOFTWARE of sysexits.h."""

KILLED = 128
"""Exit status of a server whose worker was killed, plus the signal's number, as shells say it."""

GRACE_SECONDS = 1.0
"""For the failures of requests in flight to reach their clients."""


def end_worker_soon() -> None:
    """End this process, whatever its threads do, when the failures are answered."""
    timer = threading.Timer(GRACE_SECONDS, os._exit, [LANE_DIED])
    timer.daemon = True
    timer.start()


def end_with_worker() -> None:
    """Let this process, the supervisor of workers, end when one has ended so or was killed."""
    # handlers can be set in the main thread only; elsewhere the program is not ours to end
    if threading.current_thread() is threading.main_thread() and hasattr(os, "waitid"):
        signal.signal(signal.SIGCHLD, _end_if_worker_died)


def _end_if_worker_died(number: int, frame: FrameType | None) -> None:
    # only looks: the supervisor collects its children itself
    child = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if child is None:
        return
    if child.si_code == os.CLD_EXITED and child.si_status == LANE_DIED:
        raise SystemExit(LANE_DIED)
    # a worker that was told to stop does so, and then lets the same signal end it
    told = (signal.SIGTERM, signal.SIGINT)
    if child.si_code in (os.CLD_KILLED, os.CLD_DUMPED) and child.si_status not in told:
        raise SystemExit(KILLED + child.si_status)
