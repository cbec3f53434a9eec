"""SIGHUP: sent to the supervisor or to its worker, it has the worker load its models again."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import Any


def forward_hangups() -> None:
    """Let this process, the supervisor of workers, pass the signal on.

    BentoML's supervisor is circus, which would start another worker instead. A worker that has no
    handler yet would die of the signal: it starts with the signal blocked, and finds it when it
    unblocks it.
    """
    # handlers can be set in the main thread only; elsewhere the program is not ours to change
    if threading.current_thread() is not threading.main_thread():
        return
    from circus.sighandler import SysHandler  # type: ignore[import-untyped]

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until circus sets its handler
    os.register_at_fork(after_in_child=_block)
    SysHandler.handle_hup = _pass_on


def on_hangup(call: Callable[[], None]) -> None:
    """Call it in the running loop, of the worker's main thread, at every SIGHUP."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, call)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def _block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


def _pass_on(handler: Any) -> None:
    """In the place of a method of `circus.sighandler.SysHandler`."""
    for watcher in handler.controller.arbiter.iter_watchers():
        for process in watcher.get_active_processes():
            process.send_signal(signal.SIGHUP)
