"""The calls of `inference.GRPCInferenceService`; their names are the protocol's."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any
from weakref import WeakSet

from tritonclient.grpc import service_pb2 as pb

from models.errors import Forbidden, NotFound, Unavailable, Unsupported
from service.dataplane import Dataplane
from service.inference import infer
from service.oip_config import model_config
from service.oip_metadata import (
    EXTENSIONS,
    PLATFORM,
    SERVER_NAME,
    TensorInfo,
    input_specs,
    output_specs,
    server_version,
)
from service.oip_protobuf import read_request, write_response
from service.oip_statistics import model_statistics
from service.oip_stream import OipStream
from service.repository import Repository
from service.rpc_deadline import within
from service.rpc_errors import Call, abort, told
from service.settings import Settings

SERVICE = "inference.GRPCInferenceService"


def _unsupported(what: str) -> Call:
    @told
    async def refuse(self: Any, request: Any, context: Any) -> None:
        raise Unsupported(f"found a call about {what}, which this server does not have")

    return refuse


class OipServicer:
    """Answers the calls over the models of a server."""

    def __init__(self, repository: Repository, settings: Settings) -> None:
        self._repository = repository
        self._repository_calls = settings.repository_calls
        self._streams: WeakSet[OipStream] = WeakSet()

    def end_streams(self) -> None:
        """Answer what streams have asked, and read no more of them."""
        for stream in self._streams:
            stream.end()

    @told
    async def ServerLive(self, request: Any, context: Any) -> Any:
        """Whether this process answers."""
        return pb.ServerLiveResponse(live=True)

    @told
    async def ServerReady(self, request: Any, context: Any) -> Any:
        """Whether all models answer."""
        return pb.ServerReadyResponse(ready=not self._repository.reason)

    @told
    async def ModelReady(self, request: Any, context: Any) -> Any:
        """Whether one model answers; one that is not known here does not."""
        try:
            ready = not self._repository.reason_of(self._model(request))
        except (NotFound, Unavailable):
            ready = False
        return pb.ModelReadyResponse(ready=ready)

    @told
    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        """What this server is."""
        return pb.ServerMetadataResponse(
            name=SERVER_NAME, version=server_version(), extensions=EXTENSIONS
        )

    @told
    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        """What a model takes and gives."""
        plane = self._model(request)
        return pb.ModelMetadataResponse(
            name=plane.name,
            versions=[plane.version],
            platform=PLATFORM,
            inputs=map(_tensor_metadata, input_specs(plane.manifest)),
            outputs=map(_tensor_metadata, output_specs(plane.manifest)),
        )

    @told
    async def ModelConfig(self, request: Any, context: Any) -> Any:
        """The same, and how many rows a request may hold."""
        return pb.ModelConfigResponse(config=model_config(self._model(request)))

    @told
    async def ModelStatistics(self, request: Any, context: Any) -> Any:
        """What one model has answered; all that are loaded, where none is named."""
        if request.name:
            planes = [self._model(request)]
        else:
            loaded = [state.name for state in self._repository.index() if state.version]
            planes = [self._repository.model(name) for name in loaded]
        return pb.ModelStatisticsResponse(model_stats=map(model_statistics, planes))

    @told
    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """Answer the rows of one request together."""
        with self._repository.using(request.model_name, request.model_version) as plane:
            with plane.counted():
                asked = within(read_request(request), context.time_remaining())
            return write_response(request, plane.version, await infer(plane, asked))

    async def ModelStreamInfer(
        self, messages: AsyncIterator[Any], context: Any
    ) -> AsyncGenerator[Any, None]:
        """Answer each row of many requests as it leaves."""
        stream = OipStream(self._repository, context)
        self._streams.add(stream)
        try:
            await stream.run(messages)
        except Exception as error:
            await abort(context, error)
        return
        yield  # never: tasks write to the context; but interceptors know a stream as a generator

    @told
    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        """The models there are, or those that are ready."""
        _refuse_named_repository(request)
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=model.name, version=model.version, state=model.state, reason=model.told
                )
                for model in self._repository.index()
                if model.state == "READY" or not request.ready
            ]
        )

    @told
    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        """Read a model's bundle again, and serve it."""
        self._check_repository_call(request)
        if request.parameters:
            raise Unsupported(
                "parameters: found some, expected none: a model is loaded as its bundle says"
            )
        await self._repository.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    @told
    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        """Serve a model no more; it has no dependents."""
        self._check_repository_call(request)
        await self._repository.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    SystemSharedMemoryStatus = _unsupported("shared memory")
    SystemSharedMemoryRegister = _unsupported("shared memory")
    SystemSharedMemoryUnregister = _unsupported("shared memory")
    CudaSharedMemoryStatus = _unsupported("shared memory")
    CudaSharedMemoryRegister = _unsupported("shared memory")
    CudaSharedMemoryUnregister = _unsupported("shared memory")
    TraceSetting = _unsupported("tracing")
    LogSettings = _unsupported("log settings")

    def _model(self, request: Any) -> Dataplane:
        return self._repository.model(request.name, request.version)

    def _check_repository_call(self, request: Any) -> None:
        if not self._repository_calls:
            raise Forbidden(
                "this server does not let clients load and unload models: start it with "
                "OFFRAMP_REPOSITORY_CALLS=true"
            )
        _refuse_named_repository(request)


def _refuse_named_repository(request: Any) -> None:
    if request.repository_name:
        raise Unsupported("repository_name: found one, expected none: this server has only one")


def _tensor_metadata(spec: TensorInfo) -> Any:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype, shape=spec.shape
    )
