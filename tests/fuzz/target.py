"""The server under fire: every request has a time limit, and a good one is answered after it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import httpx

from tests.live_server import LiveServer
from tests.small_bundles import small_image

SECONDS = 10.0
GOOD_ROWS: dict[str, Any] = {
    "numbers": [0.5, -1.0, 2.0, 3.0, 0.25, 0.0],
    "text": "w1 w2",
    "image": base64.b64encode(small_image()).decode(),
}


@dataclass(frozen=True)
class Target:
    """kind : of rows that the model takes"""

    kind: str
    server: LiveServer
    client: httpx.Client

    @property
    def url(self) -> str:
        return f"http://{self.server.http}"

    @property
    def model(self) -> str:
        return f"small-{self.kind}"

    def fire(self, path: str, content: bytes, headers: dict[str, str] | None = None) -> int:
        """POST anything; returns the status, which is the client's fault or nobody's."""
        headers = {"content-type": "application/json", **(headers or {})}
        response = self.client.post(
            self.url + path, content=content, headers=headers, timeout=SECONDS
        )
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            error = response.json()["error"]
            assert 0 < len(error) < 600, error
            assert "Traceback" not in error, error
            assert "site-packages" not in error, error
        self.check_answers()
        return response.status_code

    def check_answers(self) -> None:
        """A good request is answered."""
        body = {"rows": [GOOD_ROWS[self.kind]]}
        response = self.client.post(f"{self.url}/predict", json=body, timeout=SECONDS)
        assert response.status_code == 200, response.text
