from __future__ import annotations

from typing import Any, cast

import numpy as np

from models.encoding import Group
from models.runtime import Answers
from service.desk import Desk
from service.request import Job, Left
from service.scheduler import Scheduler
from service.ticket import Delivery, Mailbox, Ticket
from tests.service.fake_lanes import EIGHT, flat_costs

ROWS, LABELS = 3, 2
NEVER = np.array([np.inf, -np.inf], np.float32)
LATE = 1000.0


class Kept:
    """A mailbox that is not looked into."""

    def post(self, ticket: Ticket, delivery: Delivery) -> None:
        raise AssertionError("the desk hands over what it drains")


def test_rows_that_leave_at_their_deadline_wait_in_no_line_any_more() -> None:
    costs = flat_costs(stages=2, full=8)
    scheduler = Scheduler(costs, capacity=16)
    desk = Desk(scheduler, costs, (1, 2), LABELS)
    carry = np.zeros((ROWS, 8), np.float32)
    job = Job([Group(np.arange(ROWS), (carry,))], NEVER, deadline=LATE)
    (ids,) = scheduler.enter([(EIGHT, ROWS, carry)], job.priority, LATE, 0.0)
    ticket = desk.open(cast(Mailbox, Kept()), job, False, ids, 0.0)
    batch = scheduler.pick(0.0)
    assert batch is not None
    desk.record(1, batch.slots, answers())
    scheduler.go_on(batch, np.arange(ROWS), carry, False, 1.0)
    assert [line.rows for line in scheduler.lines()] == [ROWS]
    desk.expire(ticket, LATE)
    assert list(scheduler.lines()) == []
    assert scheduler.pick(LATE) is None
    assert scheduler.wait(job.priority) == 0
    ((answered, delivery),) = desk.drain()[0]
    assert answered is ticket
    assert cast(Any, delivery).left.tolist() == [Left.DEADLINE] * ROWS


def answers() -> Answers:
    return Answers(
        np.full((ROWS, LABELS), 0.5, np.float32),
        np.ones((ROWS, LABELS), bool),
        np.zeros(ROWS, np.float32),
    )
