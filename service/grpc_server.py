"""The gRPC server, in the event loop of whoever starts it."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tritonclient.grpc import service_pb2_grpc

from models.errors import SettingsError
from service.calls import Calls
from service.grpc_calls import GrpcCalls
from service.grpc_decoding import GrpcDecoding
from service.grpc_locks import GrpcCap, GrpcLocks
from service.grpc_stop import GrpcStop
from service.health_servicer import HEALTH, HealthServicer
from service.locks import Locks
from service.oip_servicer import SERVICE, OipServicer
from service.repository import Repository
from service.settings import Settings
from service.tls import server_credentials

_OPTIONS = (
    ("grpc.max_send_message_length", -1),  # of the model's labels and the rows, both bounded
    ("grpc.so_reuseport", 0),  # else two servers would share a port without a word
    ("grpc.server_handshake_timeout_ms", 5_000),  # silent connections take the places of others
    ("grpc.keepalive_time_ms", 60_000),  # a client that is gone without a word holds rows
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)
_SPARE = 64
"""Calls of one connection beyond the cap: they are refused at once instead of waiting for long."""


class GrpcServer:
    """Serves the Open Inference Protocol, health and reflection on one port.

    Parameters
    ----------
    locks : who may call what; None lets everybody in
    calls : what is said of calls; None says it as the settings do
    """

    def __init__(
        self,
        repository: Repository,
        settings: Settings,
        locks: Locks | None = None,
        calls: Calls | None = None,
    ) -> None:
        self._settings = settings
        self._calls = calls or Calls(settings.access_log)
        self._oip = OipServicer(repository, settings)
        self._health = HealthServicer(repository)
        self._in_flight = repository.in_flight
        self._locks = locks
        self._server: Any = None

    async def start(self) -> int:
        """Listen; returns the port.

        Raises
        ------
        SettingsError
            When the address cannot be listened on.
        """
        settings = self._settings
        server = grpc.aio.server(
            options=(
                *_OPTIONS,
                ("grpc.max_receive_message_length", settings.max_body_bytes),
                ("grpc.max_concurrent_streams", settings.max_parallel + _SPARE),
                ("grpc.max_allowed_incoming_connections", settings.max_parallel),
            ),
            interceptors=self._interceptors(),
        )
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self._oip, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, HEALTH, reflection.SERVICE_NAME), server)
        port = self._listen(server)
        await server.start()
        self._server = server
        return port

    def refuse(self) -> None:
        """Say that nothing is served, and read no more requests of the streams that are open."""
        self._health.stop()
        self._oip.end_streams()

    async def stop(self, grace_seconds: float) -> None:
        """Listen no more, finish the calls that run, and cancel them after `grace_seconds`."""
        self.refuse()
        if self._server:
            await self._server.stop(grace_seconds)

    def _interceptors(self) -> list[Any]:
        locks = [GrpcLocks(self._locks)] if self._locks else []
        cap = GrpcCap(self._settings.max_parallel)
        stop = GrpcStop(self._in_flight)
        return [GrpcCalls(self._calls), *locks, cap, stop, GrpcDecoding()]

    def _listen(self, server: Any) -> int:
        host, port = self._settings.grpc_host, self._settings.grpc_port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        credentials = server_credentials(self._settings)
        try:
            if credentials:
                return int(server.add_secure_port(address, credentials))
            return int(server.add_insecure_port(address))
        except RuntimeError as error:
            raise SettingsError(
                f"OFFRAMP_GRPC_PORT is {port}: found that {host} cannot be listened on there; free "
                "the port or choose another, or 0 for any"
            ) from error
