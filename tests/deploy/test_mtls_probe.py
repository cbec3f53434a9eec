"""deploy/kubernetes/mtls/probe.py, run as kubelet runs it."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.deploy.manifests import KUBERNETES


class Door(BaseHTTPRequestHandler):
    """Ready, but not alive."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    """probe.py beside the certificate that it shows."""
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=any"
    files = ["-keyout", "tls.key", "-out", "tls.crt"]
    command = ["openssl", *request.split(), *files]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    return Path(shutil.copy(KUBERNETES / "mtls" / "probe.py", tmp_path))


@pytest.fixture
def port(probe: Path) -> Iterator[int]:
    """Of a server that wants a client's certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=probe.parent / "tls.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(probe.parent / "tls.crt", probe.parent / "tls.key")
    with HTTPServer(("127.0.0.1", 0), Door) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


def test_the_probe_of_mtls_says_what_the_server_says(probe: Path, port: int) -> None:
    def asked(path: str, port: int) -> int:
        command = [sys.executable, probe, path, str(port)]
        return subprocess.run(command, capture_output=True).returncode

    assert asked("/readyz", port) == 0
    assert asked("/livez", port) == 1
    assert asked("/readyz", 1) == 1  # nobody is there
