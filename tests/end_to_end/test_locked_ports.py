from __future__ import annotations

import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from models.bundle import Bundle
from tests.conftest import ROOT
from tests.end_to_end.server import START_SECONDS, Server, free_port

pytestmark = pytest.mark.slow

BENTOML = Path(sys.executable).parent / "bentoml"
OLD = "old-key-of-a-client"
NEW = "new-key-of-a-client"


@dataclass
class Locked:
    """A server with mTLS and keys, and the files of both."""

    server: Server
    files: Path
    http: str
    grpc: str

    def get(self, path: str, client: str | None = "client", key: str | None = None) -> int:
        trust = ssl.create_default_context(cafile=self.files / "authority.pem")
        if client:
            trust.load_cert_chain(self.files / f"{client}.pem", self.files / f"{client}.key")
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return httpx.get(self.http + path, headers=headers, verify=trust).status_code

    def index(self, client: str | None = "client", key: str | None = None) -> str:
        pair = [client and (self.files / f"{client}.{end}").read_bytes() for end in ("key", "pem")]
        trust = grpc.ssl_channel_credentials((self.files / "authority.pem").read_bytes(), *pair)
        metadata = None if key is None else (("authorization", f"Bearer {key}"),)
        with grpc.secure_channel(self.grpc, trust) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            try:
                stub.RepositoryIndex(
                    service_pb2.RepositoryIndexRequest(), metadata=metadata, timeout=30
                )
            except grpc.RpcError as error:
                return str(error.code().name)
        return "OK"


def certificates(folder: Path) -> None:
    """`server` and `client` of one authority, `stranger` of none."""

    def openssl(command: str) -> None:
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)

    new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for name in ("authority", "stranger"):
        openssl(f"req -x509 {new} -keyout {name}.key -out {name}.pem -subj /CN={name}")
    (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl(f"req {new} -keyout {name}.key -out {name}.csr -subj /CN={name}")
        signer = "-CA authority.pem -CAkey authority.key -CAcreateserial -extfile extensions"
        openssl(f"x509 -req -in {name}.csr -out {name}.pem {signer}")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Iterator[Locked]:
    files = tmp_path_factory.mktemp("locked")
    certificates(files)
    (files / "keys").write_text(f"{OLD}\n")
    port, grpc_port = free_port(), free_port()
    log = files / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [BENTOML, "serve", "service.app:Offramp", "--port", str(port)],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={
                **psutil.Process().environ(),
                "BENTOML_DO_NOT_TRACK": "True",
                "OFFRAMP_BUNDLE": str(bundle.path),
                "OFFRAMP_GRPC_PORT": str(grpc_port),
                "OFFRAMP_KEYS_FILE": str(files / "keys"),
                "OFFRAMP_TLS_CERTIFICATE": str(files / "server.pem"),
                "OFFRAMP_TLS_KEY": str(files / "server.key"),
                "OFFRAMP_TLS_CLIENT_CA": str(files / "authority.pem"),
            },
        )
    server = Server(process, f"https://127.0.0.1:{port}", log)
    locked = Locked(server, files, server.url, f"127.0.0.1:{grpc_port}")
    try:
        eventually(lambda: answers(locked) == 200, log)
        yield locked
    finally:
        assert server.stop() == []


def answers(locked: Locked) -> int | None:
    try:
        return locked.get("/readyz")
    except httpx.TransportError:
        return None


def eventually(condition: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.mark.parametrize("client", [None, "stranger"])
def test_both_ports_want_a_certificate_of_the_authority(locked: Locked, client: str | None) -> None:
    with pytest.raises(httpx.TransportError):
        locked.get("/livez", client)
    assert locked.index(client, OLD) == "UNAVAILABLE"


def test_neither_port_speaks_without_tls(locked: Locked) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(locked.http.replace("https", "http") + "/livez")
    with grpc.insecure_channel(locked.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
            stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=30)


def test_both_ports_want_a_key(locked: Locked) -> None:
    assert locked.get("/livez") == 200
    assert [locked.get("/v2", key=key) for key in (None, NEW, OLD)] == [401, 401, 200]
    codes = [locked.index(key=key) for key in (None, NEW, OLD)]
    assert codes == ["UNAUTHENTICATED", "UNAUTHENTICATED", "OK"]


def test_both_ports_are_on_loopback_alone(locked: Locked) -> None:
    ports = {int(address.rpartition(":")[2]) for address in (locked.http, locked.grpc)}
    family = psutil.Process(locked.server.process.pid).children(recursive=True)
    listening = {
        connection.laddr
        for process in family
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port in ports
    }
    assert {address.port for address in listening} == ports
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_keys_are_changed_without_a_restart(locked: Locked) -> None:
    """Comes last: it leaves other keys behind."""
    fresh = locked.files / "keys.new"
    fresh.write_text(f"{NEW}\n")
    fresh.replace(locked.files / "keys")
    eventually(lambda: locked.get("/v2", key=NEW) == 200, locked.server.log)
    assert locked.get("/v2", key=OLD) == 401
    assert locked.index(key=NEW) == "OK"
    assert locked.index(key=OLD) == "UNAUTHENTICATED"
    log = locked.server.log.read_text()
    assert "event=keys_read variable=OFFRAMP_KEYS_FILE keys=1" in log
    assert OLD not in log
    assert NEW not in log
