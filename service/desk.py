"""The desk: keeps the tickets, writes down every exit's answers, and says which rows are done.

Not thread-safe: the engine calls it under its lock, and hands over what it drains outside of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from models.errors import DeadlineExceeded, OfframpError
from models.runtime import Answers
from service.answer_table import NONE, AnswerTable
from service.costs import CostModel
from service.model_metrics import Departure
from service.request import Job, Left, Priority, Routed
from service.scheduler import Scheduler
from service.ticket import Delivery, Mailbox, Ticket
from service.trace import Trace, TracedExit, TracedRun

ON_ITS_WAY = -1


class Desk:
    """Rows stay in the scheduler's table until their whole request is answered.

    Parameters
    ----------
    exits : number of the exit behind every stage
    labels : L
    """

    def __init__(
        self, scheduler: Scheduler, costs: CostModel, exits: tuple[int, ...], labels: int
    ) -> None:
        self.tickets: dict[int, Ticket] = {}
        self._scheduler = scheduler
        self._rows = scheduler.rows
        self._exits = exits
        self._stage_of = {number: stage for stage, number in enumerate(exits, start=1)}
        # by the stage of the last answer; a row's time does not depend on its batch here
        self._still_needed = [costs.remaining(k, costs.base) for k in range(1, len(exits) + 1)]
        self._table = AnswerTable(self._rows.capacity, len(exits), labels)
        self._last_number = 0
        self._all_exits = 0  # tickets that want all exits
        self._traced = 0  # tickets with a trace
        self._shadows = 0  # tickets of shadow rows
        self._deliveries: list[tuple[Ticket, Delivery]] = []
        self._departures: list[Departure] = []
        self._late_rows = 0

    def open(
        self, mailbox: Mailbox, job: Job, streams: bool, ids: np.ndarray, now: float
    ) -> Ticket:
        """A new ticket; `ids` by the row's place in the request."""
        self._last_number += 1
        ticket = Ticket(mailbox, self._last_number, job, ids, streams)
        self._table.open(self._rows.slots(ids), job.thresholds, now, ticket.number)
        self.tickets[ticket.number] = ticket
        self._all_exits += job.all_exits
        self._shadows += job.priority == Priority.SHADOW
        if job.trace is not None:
            self._traced += 1
            job.trace.queued = now
        return ticket

    def leaves(self, stage: int, slots: np.ndarray, score: np.ndarray) -> np.ndarray:
        """Which rows leave behind this stage: bool (b,). Those of rows that are gone mean nothing.

        The scores of a model that overflows are no numbers: they go on to where all leave.
        """
        if stage == len(self._exits):
            return np.ones(len(slots), bool)
        thresholds = self._table.thresholds(stage, slots)
        return np.asarray((score >= thresholds) | (thresholds == -np.inf))

    def record(self, stage: int, slots: np.ndarray, answers: Answers) -> None:
        """Write down what the exit behind `stage` says of rows that are present."""
        self._table.record(slots, self._exits[stage - 1], answers)
        if self._all_exits:
            for ticket, mine in self._by_ticket(slots):
                if ticket.job.all_exits:
                    ticket.pass_exit(stage, self._table.place[slots[mine]], answers.take(mine))

    def ran(self, stage: int, ids: np.ndarray, begun: float, ended: float) -> None:
        """A batch has run; some of its rows may be gone. For those that want to know."""
        if not self._traced:
            return
        slots = self._rows.slots(ids[self._rows.present(ids)])
        for ticket, mine in self._by_ticket(slots):
            if ticket.job.trace is not None:
                run = TracedRun(self._exits[stage - 1], begun, ended, len(mine), len(ids))
                ticket.job.trace.runs.append(run)

    def depart(self, slots: np.ndarray, left: Left, now: float) -> None:
        """Present rows leave with the deepest answer they have."""
        if not len(slots):
            return
        self._table.left[slots] = left
        self._table.departed[slots] = now
        self._note_departure(slots, left, now)
        for ticket, mine in self._by_ticket(slots):
            ticket.rows_on_their_way -= len(mine)
            if ticket.job.trace is not None:
                self._trace_exits(ticket.job.trace, slots[mine], left, now)
            if ticket.streams:
                self._deliveries.append((ticket, self._routed(ticket, slots[mine])))
            if not ticket.rows_on_their_way:
                if not ticket.streams:
                    self._deliveries.append((ticket, self._routed(ticket)))
                self._forget(ticket)
                if left == Left.DEADLINE:  # wherever they were
                    self._scheduler.remove(ticket.ids)
                else:
                    self._rows.remove(ticket.ids)  # all were in a batch: none waits in a line

    def depart_late(self, ids: np.ndarray, now: float) -> None:
        """Present rows leave because of their deadline; without any answer their request fails."""
        answered = self._table.exits[self._rows.slots(ids)] != NONE
        for ticket, _ in list(self._by_ticket(self._rows.slots(ids[~answered]))):
            self._late_rows += self.fail(
                ticket,
                DeadlineExceeded(
                    "the deadline passed before the first exit: allow more time, or send the "
                    "request again when less is waiting"
                ),
            )
        waiting = ids[answered]
        waiting = waiting[self._rows.present(waiting)]
        self.depart(self._rows.slots(waiting), Left.DEADLINE, now)

    def expire(self, ticket: Ticket, now: float) -> None:
        """The deadline is there: what is on its way leaves."""
        if ticket.number in self.tickets:
            self.depart_late(self.on_their_way(ticket), now)

    def fail(self, ticket: Ticket, error: OfframpError) -> int:
        """Answer the request with an error; number of rows that were on their way."""
        if ticket.number not in self.tickets:
            return 0
        self._deliveries.append((ticket, error))
        self._give_up(ticket)
        return ticket.rows_on_their_way

    def cancel(self, ticket: Ticket) -> dict[int, int]:
        """Nobody waits any more: number of the exit before which rows were -> how many."""
        if ticket.number not in self.tickets:
            return {}
        exits = self._table.exits[self._rows.slots(self.on_their_way(ticket))]
        self._give_up(ticket)
        numbers, counts = np.unique(exits, return_counts=True)
        stages = [self._stage_of.get(number, 0) for number in numbers.tolist()]
        return {self._exits[s]: n for s, n in zip(stages, counts.tolist(), strict=True)}

    def ticket_of(self, row: np.ndarray) -> tuple[Ticket, int] | None:
        """The request of one row, int64 (1,), and the row's place in it; None when it is gone."""
        if not self._rows.present(row).all():
            return None
        slot = int(self._rows.slots(row)[0])
        return self.tickets[int(self._table.owner[slot])], int(self._table.place[slot])

    def on_their_way(self, ticket: Ticket) -> np.ndarray:
        """Rows of a request that have not left: int64 (b,)."""
        left = self._table.left[self._rows.slots(ticket.ids)]
        return np.asarray(ticket.ids[left == ON_ITS_WAY])

    def drain(self) -> tuple[list[tuple[Ticket, Delivery]], list[Departure], int]:
        """What is due since the last time, and how many rows had no answer by their deadline."""
        due = self._deliveries, self._departures, self._late_rows
        self._deliveries, self._departures, self._late_rows = [], [], 0
        return due

    def _give_up(self, ticket: Ticket) -> None:
        self._forget(ticket)
        self._scheduler.remove(ticket.ids)

    def _forget(self, ticket: Ticket) -> None:
        del self.tickets[ticket.number]
        self._all_exits -= ticket.job.all_exits
        self._traced -= ticket.job.trace is not None
        self._shadows -= ticket.job.priority == Priority.SHADOW

    def _by_ticket(self, slots: np.ndarray) -> Iterator[tuple[Ticket, np.ndarray]]:
        """Every request among these rows, with the places of its rows in `slots`."""
        if not len(slots):
            return
        owner = self._table.owner[slots]
        order = owner.argsort(kind="stable")
        owner = owner[order]
        ends = [*(np.flatnonzero(owner[1:] != owner[:-1]) + 1).tolist(), len(owner)]
        start = 0
        for end in ends:
            yield self.tickets[int(owner[start])], order[start:end]
            start = end

    def _routed(self, ticket: Ticket, slots: np.ndarray | None = None) -> Routed:
        if slots is None:
            slots, places = self._rows.slots(ticket.ids), np.arange(len(ticket.ids))
        else:
            places = self._table.place[slots]
        return Routed(
            places,
            self._table.answers(slots),
            self._table.exits[slots].astype(int),
            self._table.left[slots].astype(int),
            self._table.departed[slots],
            ticket.passed(places),
        )

    def _trace_exits(self, trace: Trace, slots: np.ndarray, left: Left, now: float) -> None:
        exits, score = self._table.exits[slots], self._table.answers(slots).score
        for number in np.unique(exits).tolist():
            mine = score[exits == number]
            lowest, highest = float(mine.min()), float(mine.max())
            trace.exits.append(
                TracedExit(number, now, len(mine), lowest, highest, left.name.lower())
            )

    def _note_departure(self, slots: np.ndarray, left: Left, now: float) -> None:
        exits, latency = self._table.exits[slots], now - self._table.arrival[slots]
        # rows that leave by the policy have just passed the same exit
        if not self._shadows and (left == Left.POLICY or (exits == exits[0]).all()):
            self._departures.append(self._departure(int(exits[0]), left, latency))
            return
        shadow = self._rows.priority[slots] == Priority.SHADOW
        for number, is_shadow in sorted(set(zip(exits.tolist(), shadow.tolist(), strict=True))):
            mine = latency[(exits == number) & (shadow == is_shadow)]
            kind = Priority.SHADOW if is_shadow else Priority.INTERACTIVE
            self._departures.append(self._departure(number, left, mine, kind))

    def _departure(
        self,
        number: int,
        left: Left,
        latency: np.ndarray,
        priority: Priority = Priority.INTERACTIVE,
    ) -> Departure:
        stage = self._stage_of[number]
        needed = self._still_needed[stage] if stage < len(self._exits) else 0.0
        return Departure(number, left, latency, needed * len(latency), priority)
