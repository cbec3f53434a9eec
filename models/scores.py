"""The score of an exit, inside the graph: how sure the exit is that its label set is good enough.

Every kind of score is one number per row in [0, 1]. With p the probabilities of a row at exit k,
tau the label thresholds and d = |p - tau|:

* margin: min over labels of d / (the largest d possible on that side of tau)
* width: min over labels of d / (d + w), w the label's width at this exit
* log-probability: exp of the mean over labels of log P, P = p for a label in the set, else 1 - p;
  p is kept LEAST_PROBABILITY away from 0 and 1
* agreement: 1 - max over labels of |p - p of exit k - 1|; the margin at exit 1
* gate: a logistic model on the evidence of the row (see `models.gate.evidence_width`)

Where labels freeze, a label whose d has reached its width at two exits in a row, with the same
decision, keeps that decision at every deeper exit. Its probability is left as it is; in the score
it counts as certain, and a row whose labels are all frozen scores 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from models.gate import SMALLEST_MARGINS, Gate, add_gate, evidence_width
from models.graph_writer import GraphWriter

if TYPE_CHECKING:
    from models.heads import HeadCalibration
    from models.measurements import ScoreKind

LEAST_PROBABILITY = 1e-6
FLOAT, BOOL = 1, 9  # ONNX element types


@dataclass(frozen=True)
class ScoreRule:
    """How an exit turns its probabilities into label set and score.

    widths : float (L,), positive, in the unit of the probabilities; for width and for freezing
    gate : for gate
    freeze : whether labels freeze; then every exit before this one must freeze labels too
    """

    kind: ScoreKind = "margin"
    widths: np.ndarray | None = None
    gate: Gate | None = None
    freeze: bool = False

    def __post_init__(self) -> None:
        if self.widths is None and (self.freeze or self.kind == "width"):
            raise ValueError("a rule of kind width, or one that freezes labels, needs widths")
        if self.widths is not None and not (self.widths > 0).all():
            raise ValueError(f"widths must be positive, the smallest is {self.widths.min()}")
        if self.kind == "gate" and self.gate is None:
            raise ValueError("a rule of kind gate needs a gate")

    @property
    def looks_back(self) -> bool:
        """Whether it reads the exit before, if there is one."""
        return self.freeze or self.kind in ("agreement", "gate")


def exit_tensor(number: int, name: str) -> str:
    """Name of a tensor of exit `number`'s head in every bundle's graph."""
    return f"exit{number}_{name}"


def score_state(number: int, rule: ScoreRule) -> tuple[str, ...]:
    """Tensors of exit `number` that must cross its cut, as the next exit's head reads them.

    Parameters
    ----------
    rule : of exit `number` + 1
    """
    names = ["probabilities"] if rule.kind in ("agreement", "gate") else []
    if rule.freeze or rule.kind == "gate":
        names.append("labels")
    if rule.freeze:
        names += ["clear"] if number == 1 else ["clear", "frozen"]
    return tuple(exit_tensor(number, name) for name in names)


def add_score(
    writer: GraphWriter, number: int, calibration: HeadCalibration, rule: ScoreRule
) -> None:
    """Append label set and score to `exit{k}_probabilities` float32 (batch, L), k the `number`.

    Gives `exit{k}_labels` bool (batch, L) and `exit{k}_score` float32 (batch,), where labels freeze
    `exit{k}_clear` and, from exit 2 on, `exit{k}_frozen`, both bool (batch, L), and for a gate
    `exit{k}_evidence` float32 (batch, F).

    Parameters
    ----------
    writer : its prefix is `exit{k}_`

    Raises
    ------
    ValueError
        When the gate was fitted on other evidence than this exit has.
    """
    nodes = _ScoreNodes(writer, number, calibration.thresholds, rule)
    nodes.append_labels()
    nodes.append_score()


class _ScoreNodes:
    """Appends the nodes of one exit's label set and score; values are names of tensors."""

    def __init__(
        self, writer: GraphWriter, number: int, thresholds: np.ndarray, rule: ScoreRule
    ) -> None:
        self._writer = writer
        self._node = writer.node
        self._number = number
        self._rule = rule
        # in float32, so that no margin is larger than its room
        self._tau = thresholds.astype(np.float32)
        self._frozen: str | None = None
        self._probabilities = exit_tensor(number, "probabilities")
        self._labels = exit_tensor(number, "labels")
        self._thresholds = self._constant("thresholds", self._tau)
        self._below = self._node("Less", [self._probabilities, self._thresholds], "below")

    def append_labels(self) -> None:
        freeze = self._rule.freeze
        held = self._before("frozen") if freeze and self._number > 2 else None
        decided = self._node("Not", [self._below], "decided" if held else "labels")
        if not freeze:
            return
        narrow = self._node("Less", [self._distance, self._widths], "narrow")
        clear = self._declared(self._node("Not", [narrow], "clear"))
        if self._number == 1:
            return
        changed = self._node("Xor", [decided, self._before("labels")], "changed")
        same = self._node("Not", [changed], "same_decision")
        twice = self._node("And", [clear, self._before("clear")], "clear_twice")
        frozen = self._node("And", [same, twice], "newly_frozen" if held else "frozen")
        if held is not None:
            # ONNX Runtime's Where takes no booleans
            self._node("Xor", [decided, self._node("And", [held, changed], "undone")], "labels")
            frozen = self._node("Or", [held, frozen], "frozen")
        self._frozen = self._declared(frozen)

    def append_score(self) -> None:
        kind = self._rule.kind
        if kind == "gate":
            self._append_gate()
        elif kind == "log-probability":
            self._node("Exp", [self._log_probability()], "score")
        elif kind == "agreement" and self._number > 1:
            self._node("Sub", [self._one, self._change()], "score")
        else:
            sureness = self._sureness() if kind == "width" else self._margin()
            self._writer.reduce("ReduceMin", sureness, 1, "score")

    def _margin(self) -> str:
        room_above = self._constant("room_above", 1 - self._tau)
        room = self._node("Where", [self._below, self._thresholds, room_above], "room")
        margin = self._node("Div", [self._distance, room], "margin")
        return self._where_frozen(1, margin)

    def _sureness(self) -> str:
        reach = self._node("Add", [self._distance, self._widths], "reach")
        return self._where_frozen(1, self._node("Div", [self._distance, reach], "sureness"))

    def _log_probability(self, keep: bool = False) -> str:
        bounds = [
            self._constant("least", np.array(LEAST_PROBABILITY)),
            self._constant("most", np.array(1 - LEAST_PROBABILITY)),
        ]
        present = self._node("Clip", [self._probabilities, *bounds], "present")
        absent = self._node("Sub", [self._one, present], "absent")
        decision = self._node("Where", [self._labels, present, absent], "decision")
        log = self._where_frozen(0, self._node("Log", [decision], "log"))
        return self._writer.reduce("ReduceMean", log, 1, "log_probability", keep)

    def _change(self, keep: bool = False) -> str:
        change = self._node("Sub", [self._probabilities, self._before("probabilities")], "step")
        change = self._where_frozen(0, self._node("Abs", [change], "change"))
        return self._writer.reduce("ReduceMax", change, 1, "largest_change", keep)

    def _append_gate(self) -> None:
        gate = self._rule.gate
        expected = evidence_width(self._number, len(self._tau))
        if gate is None or len(gate.weights) != expected:
            found = None if gate is None else len(gate.weights)
            raise ValueError(
                f"the gate of exit {self._number} has {found} weights, expected {expected}"
            )
        if self._frozen is None:
            add_gate(self._writer, gate, self._evidence(), "score")
            return
        frozen = self._node("Cast", [self._frozen], "frozen01", to=FLOAT)
        certain = self._writer.reduce("ReduceMin", frozen, 1, "all_frozen")
        gated = add_gate(self._writer, gate, self._evidence(), "gate")
        self._node("Max", [certain, gated], "score")

    def _evidence(self) -> str:
        reduce = self._writer.reduce
        count = min(SMALLEST_MARGINS, len(self._tau))
        members = self._node("Cast", [self._labels], "members", to=FLOAT)
        size = reduce("ReduceSum", members, 1, "size", True)
        parts = [
            self._writer.smallest(self._margin(), count, "smallest_margins"),
            self._node("Log", [self._node("Add", [size, self._one], "size1")], "log_size"),
            self._log_probability(keep=True),
        ]
        if self._number > 1:
            equal = self._node("Equal", [self._labels, self._before("labels")], "equal")
            equal = self._node("Cast", [equal], "equal01", to=FLOAT)
            parts += [self._change(keep=True), reduce("ReduceMin", equal, 1, "same_set", True)]
        return self._node("Concat", parts, "evidence", axis=1)

    @cached_property
    def _one(self) -> str:
        return self._constant("one", np.array(1))

    @cached_property
    def _widths(self) -> str:
        return self._constant("widths", np.asarray(self._rule.widths))

    @cached_property
    def _distance(self) -> str:
        gap = self._node("Sub", [self._probabilities, self._thresholds], "gap")
        return self._node("Abs", [gap], "distance")

    def _before(self, name: str) -> str:
        return exit_tensor(self._number - 1, name)

    def _where_frozen(self, certain: float, tensor: str) -> str:
        """The tensor, with the value `certain` at frozen labels."""
        if self._frozen is None:
            return tensor
        name = tensor.removeprefix(exit_tensor(self._number, ""))
        value = self._constant(f"certain_{name}", np.array(certain))
        return self._node("Where", [self._frozen, value, tensor], f"settled_{name}")

    def _constant(self, name: str, value: np.ndarray) -> str:
        return self._writer.constant(name, value.astype(np.float32))

    def _declared(self, tensor: str) -> str:
        """Record the type of an inner tensor, so that a cut can stand there."""
        from onnx import helper

        value = helper.make_tensor_value_info(tensor, BOOL, ["batch", len(self._tau)])
        self._writer.graph.value_info.append(value)
        return tensor
