"""Which cores the client has, and which the servers: the same for every server."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cores:
    """Numbers of cores; empty where the system cannot keep a thread on some."""

    client: tuple[int, ...]
    servers: tuple[int, ...]


def divided_cores() -> Cores:
    """The first core that this process may use for the client, the others for the servers."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return Cores(tuple(cores[:1]), tuple(cores[1:] or cores))


def pin(cores: Collection[int]) -> None:
    """Keep this thread on the cores, and the threads and processes that it will start."""
    if cores:
        os.sched_setaffinity(0, cores)


def in_words(cores: Sequence[int]) -> str:
    """As a page names them."""
    if not cores:
        return "any core"
    return f"core{'s' if len(cores) > 1 else ''} {', '.join(map(str, cores))}"
