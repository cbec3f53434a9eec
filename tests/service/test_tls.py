from __future__ import annotations

import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from models.errors import SettingsError
from service.settings import Settings
from service.tls import CIPHERS, bentoml_ssl, check_certificates, server_credentials


def openssl(folder: Path, command: str) -> None:
    subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates `server` and `client` of one authority, `stranger` of none."""
    folder = tmp_path_factory.mktemp("certificates")
    new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for name in ("authority", "stranger"):
        openssl(folder, f"req -x509 {new} -keyout {name}.key -out {name}.pem -subj /CN={name}")
    (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for name in ("server", "client"):
        openssl(folder, f"req {new} -keyout {name}.key -out {name}.csr -subj /CN={name}")
        signed_by = "-CA authority.pem -CAkey authority.key -CAcreateserial"
        openssl(folder, f"x509 -req -in {name}.csr -out {name}.pem {signed_by} -extfile extensions")
    openssl(folder, "ec -in server.key -aes256 -passout pass:secret -out encrypted.key")
    (folder / "empty").touch()
    return folder


def settings(files: Path, certificate: str | None, key: str | None, ca: str | None) -> Settings:
    return Settings(
        tls_certificate=certificate and files / certificate,
        tls_key=key and files / key,
        tls_client_ca=ca and files / ca,
    )


@asynccontextmanager
async def served(credentials: Any) -> AsyncIterator[int]:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def answered(port: int, files: Path, client: str | None) -> bool:
    """Whether a client with this certificate, and trust in the authority, gets an answer."""
    pair = [client and (files / f"{client}.{end}").read_bytes() for end in ("key", "pem")]
    credentials = grpc.ssl_channel_credentials((files / "authority.pem").read_bytes(), *pair)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        try:
            await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=30
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
    return True


async def test_without_an_authority_every_client_is_answered(files: Path) -> None:
    credentials = server_credentials(settings(files, "server.pem", "server.key", None))
    async with served(credentials) as port:
        assert await answered(port, files, None)
        assert await answered(port, files, "client")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=30
                )


async def test_with_an_authority_clients_need_its_certificate(files: Path) -> None:
    chosen = settings(files, "server.pem", "server.key", "authority.pem")
    async with served(server_credentials(chosen)) as port:
        assert await answered(port, files, "client")
        assert not await answered(port, files, None)
        assert not await answered(port, files, "stranger")


def test_without_files_there_is_no_tls(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server_credentials(settings(files, None, None, None)) is None
    for variable in ("CERTIFICATE", "KEY", "CLIENT_CA"):
        monkeypatch.delenv(f"OFFRAMP_TLS_{variable}", raising=False)
    assert bentoml_ssl() == {"enabled": False}


@pytest.mark.parametrize(
    ("certificate", "key", "ca", "found"),
    [
        ("server.pem", None, None, "OFFRAMP_TLS_KEY is not set"),
        (None, "server.key", None, "OFFRAMP_TLS_CERTIFICATE is not set"),
        (None, None, "authority.pem", "OFFRAMP_TLS_CERTIFICATE is not set"),
        ("nowhere", "server.key", None, "OFFRAMP_TLS_CERTIFICATE: .*/nowhere cannot be read"),
        ("server.pem", "nowhere", None, "OFFRAMP_TLS_KEY: .*/nowhere cannot be read"),
        ("server.pem", "server.key", "nowhere", "OFFRAMP_TLS_CLIENT_CA: .*/nowhere cannot be read"),
        ("empty", "server.key", None, "OFFRAMP_TLS_CERTIFICATE: .*/empty holds no certificate"),
        ("server.key", "server.key", None, "OFFRAMP_TLS_CERTIFICATE: .* holds no certificate"),
        ("server.pem", "empty", None, "OFFRAMP_TLS_KEY: .*/empty holds no private key"),
        ("server.pem", "server.pem", None, "OFFRAMP_TLS_KEY: .* holds no private key"),
        ("server.pem", "client.key", None, "OFFRAMP_TLS_KEY: .* is not the key of"),
        ("server.pem", "encrypted.key", None, "OFFRAMP_TLS_KEY: .* is encrypted"),
        ("server.pem", "server.key", "empty", "OFFRAMP_TLS_CLIENT_CA: .* holds no certificate"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_variable(
    files: Path, certificate: str | None, key: str | None, ca: str | None, found: str
) -> None:
    for refuse in (check_certificates, server_credentials):
        with pytest.raises(SettingsError, match=f"^{found}"):
            refuse(settings(files, certificate, key, ca))


def test_bentoml_gets_the_same_files(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFRAMP_TLS_CERTIFICATE", str(files / "server.pem"))
    monkeypatch.setenv("OFFRAMP_TLS_KEY", str(files / "server.key"))
    options = bentoml_ssl()
    assert options["enabled"]
    assert (options["certfile"], options["keyfile"]) == (
        str(files / "server.pem"),
        str(files / "server.key"),
    )
    assert "cert_reqs" not in options
    monkeypatch.setenv("OFFRAMP_TLS_CLIENT_CA", str(files / "authority.pem"))
    options = bentoml_ssl()
    assert options["ca_certs"] == str(files / "authority.pem")
    assert options["cert_reqs"] == ssl.CERT_REQUIRED


def test_settings_that_cannot_be_used_are_not_told_at_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OFFRAMP_MODE", "fast")
    assert bentoml_ssl() == {"enabled": False}


def test_every_cipher_keeps_old_sessions_secret() -> None:
    """And none of them is one that BentoML's own default would leave."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(CIPHERS)
    old = [c for c in context.get_ciphers() if c["protocol"] != "TLSv1.3"]
    assert old
    assert all(c["aead"] and "ecdhe" in c["kea"] for c in old)
