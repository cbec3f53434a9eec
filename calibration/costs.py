"""Measures what the stages cost on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from models.graph import STAGE_OUTPUTS, extract_graph, graph_inputs
from models.heads import output_name
from models.machine import machine_name
from models.measurements import Costs
from models.runtime import Carry, StageRuntime, open_session

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    from rich.progress import Progress

BATCH_ROWS = (1, 2, 4, 8, 16, 32)
ROUNDS = 30
FEWEST_ROUNDS = 7
SECONDS = 20  # after which no further round begins

Work = Callable[[], object]


def measure_costs(
    model: bytes,
    carries: Sequence[Sequence[str]],
    rows: Carry,
    progress: Progress,
    rounds: int = ROUNDS,
) -> Costs:
    """Median milliseconds of every stage, every exit and the whole; rounds visit all in turn.

    Parameters
    ----------
    model : the serialized multi-head graph
    carries : K - 1 groups of tensor names
    rows : the model's inputs for at least one row of real data; repeated where they are too few
    """
    timed = _Timed(model, carries)
    copies = -(-max(BATCH_ROWS) // len(rows[0]))
    repeated = [np.concatenate([tensor] * copies) for tensor in rows]
    work = [timed.work(tuple(t[:n] for t in repeated)) for n in BATCH_ROWS]
    times: list[np.ndarray] = []  # of every round, [batch][work]
    begun = perf_counter()
    for number in progress.track(range(rounds), description="stage costs"):
        if number < FEWEST_ROUNDS or perf_counter() - begun < SECONDS:
            times.append(np.array([[_milliseconds(run) for run in batch] for batch in work]))
    medians = np.median(times, axis=0).T  # [work][batch]
    depth = len(carries) + 1
    stages, heads, merged = np.split(medians[:-1], [depth, 2 * depth - 1])
    # where the split costs more than the head alone, as when it parts what the runtime would fuse
    exits = np.maximum(heads, stages[:-1] + stages[1:] - merged)
    return Costs(
        machine=machine_name(),
        batch_rows=BATCH_ROWS,
        stage_milliseconds=_nested(stages),
        beyond_milliseconds=(0.0,) * len(BATCH_ROWS),
        exit_milliseconds=_nested(exits),
        whole_milliseconds=tuple(medians[-1].tolist()),
    )


def without_last_stage(costs: Costs) -> Costs:
    """The costs of a bundle that leaves the last stage out."""
    *kept, last = costs.stage_milliseconds
    return costs.model_copy(
        update={
            "stage_milliseconds": tuple(kept),
            "beyond_milliseconds": last,
            "exit_milliseconds": costs.exit_milliseconds[:-1],
        }
    )


def without_exit(costs: Costs, number: int) -> Costs:
    """The costs when early exit `number` is no more: its stage and the next one become one."""
    stages, exits = list(costs.stage_milliseconds), list(costs.exit_milliseconds)
    gone = exits.pop(number - 1)
    merged = zip(stages[number - 1], stages[number], gone, strict=True)
    stages[number - 1 : number + 1] = [tuple(a + b - c for a, b, c in merged)]
    return costs.model_copy(
        update={"stage_milliseconds": tuple(stages), "exit_milliseconds": tuple(exits)}
    )


def time_until(costs: Costs, batch: int = -1) -> np.ndarray:
    """Time until each exit's answer, as a share of the whole model's without exits: float (K,).

    Parameters
    ----------
    batch : index into `costs.batch_rows`
    """
    until_exit = np.cumsum([stage[batch] for stage in costs.stage_milliseconds])
    return np.asarray(until_exit / costs.whole_milliseconds[batch])


def computed_time(exits: np.ndarray, costs: Costs, batch: int = -1) -> float:
    """Mean stage time of rows leaving at `exits`, int (n,) in 1..K, as a share of the whole's."""
    return float(time_until(costs, batch)[exits - 1].mean())


class _Timed:
    """The sessions that are measured."""

    def __init__(self, model: bytes, carries: Sequence[Sequence[str]]) -> None:
        import onnx

        graph = onnx.load_model_from_string(model)
        self._runtime = StageRuntime(model, carries)
        self._entries = [graph_inputs(graph), *(list(carry) for carry in carries)]
        last = _answers(len(carries) + 1)
        self._whole = _session(extract_graph(graph, self._entries[0], last))
        self._merged = [
            _session(_merged_stages(graph, self._entries, number))
            for number in range(1, len(self._entries))
        ]
        self._heads = [
            # what the cut does not carry is computed from what the cut before it does
            _session(extract_graph(graph, list(dict.fromkeys([*carry, *before])), _answers(number)))
            for number, (before, carry) in enumerate(
                zip(self._entries, self._entries[1:], strict=False), start=1
            )
        ]

    def work(self, rows: Carry) -> list[Work]:
        """K stages, K - 1 heads, K - 1 pairs of stages without the exit between, the whole."""
        carries = [rows]
        for stage in range(1, self._runtime.depth):
            carries.append(self._runtime.run(stage, carries[-1])[1])
        feeds = [dict(zip(*pair, strict=True)) for pair in zip(self._entries, carries, strict=True)]
        stays = np.arange(0, len(rows[0]), 2)  # every second row is gathered for the next stage
        return [
            *(self._stage(stage, carry) for stage, carry in enumerate(carries, start=1)),
            *(
                self._exit(head, {**before, **behind}, carry, stays)
                for head, before, behind, carry in zip(
                    self._heads, feeds, feeds[1:], carries[1:], strict=False
                )
            ),
            *(
                self._pair(session, feed)
                for session, feed in zip(self._merged, feeds, strict=False)
            ),
            lambda: self._whole.run(None, feeds[0]),
        ]

    def _stage(self, stage: int, carry: Carry) -> Work:
        return lambda: self._runtime.run(stage, carry)

    def _pair(self, session: onnxruntime.InferenceSession, feed: dict[str, np.ndarray]) -> Work:
        return lambda: session.run(None, feed)

    def _exit(
        self,
        head: onnxruntime.InferenceSession,
        feeds: dict[str, np.ndarray],
        carry: Carry,
        stays: np.ndarray,
    ) -> Work:
        names = {value.name for value in head.get_inputs()}
        read = {name: tensor for name, tensor in feeds.items() if name in names}
        return lambda: (head.run(None, read), [tensor[stays] for tensor in carry])


def _merged_stages(
    graph: onnx.ModelProto, entries: Sequence[Sequence[str]], number: int
) -> onnx.ModelProto:
    """Stages `number` and `number` + 1 in one piece."""
    before = entries[number - 1]
    behind = entries[number + 1] if number + 1 < len(entries) else ()
    outputs = [*_answers(number + 1), *(name for name in behind if name not in before)]
    return extract_graph(graph, before, list(dict.fromkeys(outputs)))


def _milliseconds(run: Work) -> float:
    start = perf_counter()
    run()
    return (perf_counter() - start) * 1000


def _nested(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, values.tolist()))


def _answers(number: int) -> list[str]:
    return [output_name(number, kind) for kind in STAGE_OUTPUTS]


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return open_session(model.SerializeToString())
