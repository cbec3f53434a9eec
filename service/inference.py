"""An inference request of the Open Inference Protocol, in no protocol's own form."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from service.dataplane import Dataplane
from service.input_tensors import input_rows
from service.output_tensors import check_outputs, output_tensors
from service.parameters import options_from
from service.tensors import Tensor

Parameters = Mapping[str, bool | int | float | str]


@dataclass(frozen=True)
class InferRequest:
    """What a client asks.

    inputs : the rows, in any of the ways that `service.input_tensors` lists
    outputs : names of the tensors wanted; empty for all
    parameters : see `service.parameters`
    """

    inputs: Sequence[Tensor]
    outputs: Sequence[str] = ()
    parameters: Parameters = field(default_factory=dict)


async def infer(plane: Dataplane, request: InferRequest) -> list[Tensor]:
    """The output tensors over all rows.

    Raises
    ------
    InvalidInput
        Names what is wrong with an input, an output or a parameter.
    Overloaded, DeadlineExceeded, Unavailable
        See `Dataplane.predict`.
    """
    with plane.counted():
        check_outputs(request.outputs)
        options = options_from(request.parameters)
        rows = input_rows(request.inputs, plane.manifest)
    return output_tensors(await plane.predict(rows, options), request.outputs)


async def infer_stream(
    plane: Dataplane, request: InferRequest
) -> AsyncGenerator[list[Tensor], None]:
    """The same in parts, as rows leave; a tensor `row` says which they are."""
    with plane.counted():
        check_outputs(request.outputs)
        options = options_from(request.parameters)
        rows = input_rows(request.inputs, plane.manifest)
    async with aclosing(plane.stream(rows, options)) as parts:
        async for part in parts:
            yield output_tensors(part, request.outputs, streamed=True)
