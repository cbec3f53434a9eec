"""TLS and mTLS, the same for both ports, from the files that the settings name."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, NoReturn

from models.errors import SettingsError
from service.settings import Settings, load_settings

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; BentoML's own default leaves it the ones of TLS 1.0."""


def check_certificates(settings: Settings) -> None:
    """Make sure that both servers will be able to use the files.

    Raises
    ------
    SettingsError
        Names the variable and what is wrong with its file.
    """
    certificate, key, authority = _named(settings)
    for variable, path in (certificate, key, authority):
        if path is not None:
            _read(variable, path)
    if certificate[1] is None or key[1] is None:
        if certificate[1] or key[1] or authority[1]:
            missing = key[0] if certificate[1] else certificate[0]
            raise SettingsError(f"{missing} is not set: TLS needs a certificate and its key")
        return
    for variable, path in (certificate, authority):
        if path is not None:
            _check_certificates_in(variable, path)
    _check_pair(certificate[1], key[1])


def server_credentials(settings: Settings) -> Any:
    """`grpc.ServerCredentials`, or None without TLS.

    Raises
    ------
    SettingsError
        As `check_certificates`.
    """
    check_certificates(settings)
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    import grpc

    authority = settings.tls_client_ca
    return grpc.ssl_server_credentials(
        [(settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())],
        None if authority is None else authority.read_bytes(),
        require_client_auth=authority is not None,
    )


def bentoml_ssl() -> dict[str, Any]:
    """The argument `ssl` of `bentoml.service`, by the environment.

    BentoML wants it when the service is imported, where nothing can be told yet: settings that
    cannot be used are left to `check_certificates`, before the server starts.
    """
    try:
        settings = load_settings()
    except SettingsError:
        return {"enabled": False}
    if settings.tls_certificate is None or settings.tls_key is None:
        return {"enabled": False}
    options = {
        "enabled": True,
        "certfile": str(settings.tls_certificate),
        "keyfile": str(settings.tls_key),
        "version": int(ssl.PROTOCOL_TLS_SERVER),
        "ciphers": CIPHERS,
    }
    if settings.tls_client_ca is not None:
        options["ca_certs"] = str(settings.tls_client_ca)
        options["cert_reqs"] = int(ssl.CERT_REQUIRED)
    return options


def _named(settings: Settings) -> list[tuple[str, Path | None]]:
    fields = ("tls_certificate", "tls_key", "tls_client_ca")
    return [(f"OFFRAMP_{field.upper()}", getattr(settings, field)) for field in fields]


def _read(variable: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{variable}: {path} cannot be read ({error.strerror})") from None


def _check_certificates_in(variable: str, path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except ssl.SSLError:
        raise SettingsError(f"{variable}: {path} holds no certificate; expected PEM") from None


def _check_pair(certificate: Path, key: Path) -> None:
    def refuse() -> NoReturn:
        # OpenSSL would ask for it at the terminal
        raise SettingsError(
            f"OFFRAMP_TLS_KEY: {key} is encrypted; expected a key without passphrase, "
            "readable by the service alone"
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, refuse)
    except ssl.SSLError as error:
        mismatch = error.reason == "KEY_VALUES_MISMATCH"
        found = "is not the key of OFFRAMP_TLS_CERTIFICATE" if mismatch else "holds no private key"
        raise SettingsError(f"OFFRAMP_TLS_KEY: {key} {found}; expected its key in PEM") from None
