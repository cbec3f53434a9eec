"""Asks the server in this container for a path, with a client's certificate: 0 if it says yes."""

from __future__ import annotations

import http.client
import ssl
import sys
from pathlib import Path

HERE = Path(__file__).parent
PORT = 3000
SECONDS = 4.0


def status(path: str, port: int) -> int:
    """The status of the answer.

    Raises
    ------
    OSError, http.client.HTTPException
        When there is none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # what answers on this port of loopback is the server, whatever its certificate is made out to
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(HERE / "tls.crt", HERE / "tls.key")
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=SECONDS, context=context)
    connection.request("GET", path)
    return connection.getresponse().status


if __name__ == "__main__":
    port = int(sys.argv[2]) if len(sys.argv) > 2 else PORT
    sys.exit(0 if status(sys.argv[1], port) == 200 else 1)
