from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from models.bundle import Bundle
from service.dataplane import Dataplane
from service.http import create_app
from service.metrics import Metrics
from service.settings import Settings
from service.store import open_runtime


@pytest.fixture
def dataplane(bundle: Bundle) -> Iterator[Dataplane]:
    settings = Settings(bundle=str(bundle.path), lanes=2, max_rows=64, max_body_bytes=2**20)
    plane = Dataplane(bundle, open_runtime(bundle), settings, Metrics())
    yield plane
    plane.close()


@pytest.fixture
def client(dataplane: Dataplane) -> Iterator[TestClient]:
    with TestClient(create_app(dataplane), raise_server_exceptions=False) as client:
        yield client
