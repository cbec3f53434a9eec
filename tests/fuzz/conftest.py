from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from models.bundle import Bundle
from tests.fuzz.rounds import SECONDS, Repeat, repeat_for
from tests.fuzz.target import Target
from tests.live_server import live_server
from tests.small_bundles import KINDS, small_bundle

LIMITS = {"max_rows": 8, "max_body_bytes": 2**18}


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("fuzzed")
    return {kind: small_bundle(folder / kind, kind) for kind in KINDS}


@pytest.fixture(scope="session")
def targets(small: dict[str, Bundle]) -> Iterator[dict[str, Target]]:
    """A running server per kind of rows."""
    with (
        live_server(small["numbers"], **LIMITS) as numbers,
        live_server(small["image"], **LIMITS) as image,
        live_server(small["text"], **LIMITS) as text,
        httpx.Client() as client,
    ):
        servers = {"numbers": numbers, "image": image, "text": text}
        yield {kind: Target(kind, server, client) for kind, server in servers.items()}


@pytest.fixture(params=KINDS)
def target(request: Any, targets: dict[str, Target]) -> Target:
    return targets[request.param]


@pytest.fixture
def repeat(request: Any) -> Repeat:
    """Repeats a round for this fuzzer's share of the time."""
    fuzzers = [item for item in request.session.items if "repeat" in item.fixturenames]
    return partial(repeat_for, SECONDS / len(fuzzers))
