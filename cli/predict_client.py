"""A model on a server, over either protocol of tritonclient; its errors as the domain's."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from models.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    NotFound,
    OfframpError,
    Overloaded,
    Unauthenticated,
    Unavailable,
)

SCHEMES = ("http", "https", "grpc", "grpcs")
RETRY_AFTER = "retry-after"
SECONDS = 600
"""After which a request over HTTP is given up; the server has its own, shorter limits."""
ERRORS: Mapping[str, type[OfframpError]] = {
    "400": InvalidInput,
    "413": InvalidInput,
    "StatusCode.INVALID_ARGUMENT": InvalidInput,
    "StatusCode.RESOURCE_EXHAUSTED": InvalidInput,  # too long: an overload says when to come back
    "401": Unauthenticated,
    "StatusCode.UNAUTHENTICATED": Unauthenticated,
    "403": Forbidden,
    "StatusCode.PERMISSION_DENIED": Forbidden,
    "404": NotFound,
    "StatusCode.NOT_FOUND": NotFound,
    "504": DeadlineExceeded,
    "StatusCode.DEADLINE_EXCEEDED": DeadlineExceeded,
}
"""By the status in tritonclient's exception."""


@dataclass(frozen=True)
class Taken:
    """What the model takes, and what it knows.

    kind : `numbers`, `text` or `image`
    input : name of the tensor that holds the rows
    datatype : the protocol's word for its type
    row_shape : of numbers, -1 for any
    labels : names, where the server tells them
    """

    model: str
    kind: str
    input: str
    datatype: str
    row_shape: tuple[int, ...]
    labels: tuple[str, ...]


class ModelClient:
    """Calls one model of one server.

    Parameters
    ----------
    url : http://, https://, grpc:// or grpcs://, a host, and a port
    key : sent as `Authorization: Bearer`
    ca : PEM file of the authorities that the server's certificate is checked with

    Raises
    ------
    InvalidInput
        When the URL or the file is none.
    """

    def __init__(self, url: str, key: str | None = None, ca: Path | None = None) -> None:
        self._url = url
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.netloc:
            schemes = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise InvalidInput(
                f"URL: found {url!r}, expected one of {schemes} with a host and a port, such as "
                "http://localhost:3000"
            )
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._grpc = parts.scheme.startswith("grpc")
        secure = parts.scheme.endswith("s")
        try:
            opened = _open_grpc if self._grpc else _open_http
            self._client, self._input, self._lost = opened(parts.netloc + parts.path, secure, ca)
        except (OSError, ssl.SSLError) as error:
            raise InvalidInput(
                f"--ca: {ca} holds no certificates that can be read ({error}); expected a PEM file"
            ) from None

    async def close(self) -> None:
        """End the connections."""
        await self._client.close()

    async def describe(self, model: str | None) -> Taken:
        """Ask what the model takes; by default the server's only one."""
        name = model or await self._only_model()
        metadata = await self._call("get_model_metadata", name)
        config = await self._call("get_model_config", name)
        return _taken(name, metadata["inputs"], config.get("config", config))

    async def infer(self, taken: Taken, rows: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Answer rows; returns tritonclient's result.

        Parameters
        ----------
        rows : bytes each, or arrays of one shape
        options : keyword arguments of tritonclient's `infer`

        Raises
        ------
        InvalidInput
            When a row or an option is refused.
        Overloaded
            When the server has no room, or is not there yet; says when to come back.
        """
        array = np.stack(rows) if taken.kind == "numbers" else np.array(rows, object)
        tensor = self._input(taken.input, list(array.shape), taken.datatype)
        tensor.set_data_from_numpy(array)
        return await self._call("infer", taken.model, [tensor], **options)

    async def _only_model(self) -> str:
        index = await self._call("get_model_repository_index")
        names = [entry["name"] for entry in (index["models"] if self._grpc else index)]
        if len(names) != 1:
            raise InvalidInput(f"--model: the server has {', '.join(names)}; name one of them")
        return str(names[0])

    async def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        from tritonclient.utils import InferenceServerException

        if self._grpc and method != "infer":
            options["as_json"] = True
        try:
            return await getattr(self._client, method)(*arguments, headers=self._headers, **options)
        except InferenceServerException as error:
            raise self._told(error) from None
        except (OSError, TimeoutError, self._lost) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unavailable(self._unreachable(reason)) from None

    def _told(self, error: Any) -> OfframpError:
        """The domain's error for tritonclient's."""
        status, message = error.status(), error.message()
        wait = _retry_after(error)
        if wait is not None:
            return Overloaded(message, retry_after=wait)
        if status == "StatusCode.UNAVAILABLE":
            return Unavailable(self._unreachable(message))
        if ERRORS.get(status) in (Unauthenticated, Forbidden):
            message = f"{message} (the key is given as --key, or in OFFRAMP_KEY)"
        return ERRORS.get(status, OfframpError)(message)

    def _unreachable(self, reason: str) -> str:
        return (
            f"found no server that answers at {self._url}: {reason}. Check the address and the "
            "port, and whether it speaks TLS (https, grpcs; --ca names its authority)"
        )


Opened = tuple[Any, type, type[Exception]]
"""A client, the class of its input tensors, and what it raises when the connection is lost."""


def _open_grpc(address: str, secure: bool, ca: Path | None) -> Opened:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it logs is told as an error too
    from grpc import RpcError
    from tritonclient.grpc import InferInput
    from tritonclient.grpc.aio import InferenceServerClient

    if ca:
        ssl.create_default_context(cafile=ca)  # gRPC says nothing of a file that is none
    authority = str(ca) if ca else None
    return (
        InferenceServerClient(address, ssl=secure, root_certificates=authority),
        InferInput,
        RpcError,
    )


def _open_http(address: str, secure: bool, ca: Path | None) -> Opened:
    from aiohttp import ClientError
    from tritonclient.http import InferInput
    from tritonclient.http.aio import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    class Client(InferenceServerClient):  # type: ignore[misc]
        """Keeps what tritonclient drops of an answer: when to come back."""

        async def _post(self, *arguments: Any, **options: Any) -> Any:
            response = await super()._post(*arguments, **options)
            if RETRY_AFTER in response.headers:
                told = json.loads(await response.read())
                error = InferenceServerException(told["error"], str(response.status))
                error.retry_after = response.headers[RETRY_AFTER]
                raise error
            return response

    context = ssl.create_default_context(cafile=ca) if secure else None
    client = Client(address, ssl=secure, ssl_context=context, conn_timeout=SECONDS)
    return client, InferInput, ClientError


def _retry_after(error: Any) -> float | None:
    """Seconds, where the server said so."""
    value = getattr(error, "retry_after", None)
    trailing = getattr(error.__context__, "trailing_metadata", None)  # of the gRPC error behind it
    if trailing and value is None:
        value = dict(trailing() or ()).get(RETRY_AFTER)
    return float(value) if value is not None and str(value).isdecimal() else None


def _taken(name: str, inputs: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> Taken:
    raw = [tensor for tensor in inputs if tensor["datatype"] == "BYTES"]
    tensor = (raw or inputs)[0]
    kind = str(tensor["name"]).removesuffix("_bytes") if raw else "numbers"
    labels = config.get("parameters", {}).get("labels", {}).get("string_value", "[]")
    return Taken(
        model=name,
        kind=kind,
        input=tensor["name"],
        datatype=tensor["datatype"],
        row_shape=tuple(int(size) for size in tensor["shape"][1:]),
        labels=tuple(json.loads(labels)),
    )
