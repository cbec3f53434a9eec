from __future__ import annotations

import asyncio

import pytest

from models.errors import Unavailable
from service.in_flight import InFlight


class Work:
    """A request that is answered when it is let go."""

    def __init__(self, in_flight: InFlight, accepted: bool) -> None:
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.task = asyncio.create_task(self._answer(in_flight, accepted))

    async def _answer(self, in_flight: InFlight, accepted: bool) -> str:
        async with in_flight.request(accepted) as self.request:
            self.begun.set()
            await self.go.wait()
            return "answered"


async def begun(in_flight: InFlight, accepted: bool = True) -> Work:
    work = Work(in_flight, accepted)
    await work.begun.wait()
    return work


async def test_what_is_accepted_is_answered_after_the_stop_began() -> None:
    in_flight = InFlight()
    work = [await begun(in_flight) for _ in range(2)]
    in_flight.stop()
    finishing = asyncio.create_task(in_flight.finish(60))
    for left, one in zip((2, 1), work, strict=True):
        assert in_flight.accepted == left
        assert not finishing.done()
        one.go.set()
        assert await one.task == "answered"
    assert await finishing == 0


async def test_nothing_new_is_taken_while_it_stops() -> None:
    in_flight = InFlight()
    in_flight.stop()
    with pytest.raises(Unavailable, match="is stopping"):
        async with in_flight.request(accepted=True):
            pass
    assert in_flight.accepted == 0
    assert await in_flight.finish(60) == 0


async def test_what_is_not_accepted_is_given_up_at_once() -> None:
    in_flight = InFlight()
    reading, accepted_late = await begun(in_flight, False), await begun(in_flight, False)
    accepted_late.request.accepted = True
    in_flight.stop()
    with pytest.raises(Unavailable, match="is stopping"):
        await reading.task
    assert not accepted_late.task.done()
    accepted_late.go.set()
    assert await accepted_late.task == "answered"
    assert await in_flight.finish(60) == 0


async def test_what_takes_too_long_is_given_up() -> None:
    in_flight = InFlight()
    late = await begun(in_flight)
    in_flight.stop()
    assert await in_flight.finish(0.01) == 1
    with pytest.raises(Unavailable, match="is stopping"):
        await late.task
    assert in_flight.accepted == 0


async def test_a_second_stop_changes_nothing() -> None:
    in_flight = InFlight()
    reading = await begun(in_flight, accepted=False)
    in_flight.stop()
    in_flight.stop()
    with pytest.raises(Unavailable):
        await reading.task
    in_flight.stop()
    assert await in_flight.finish(60) == 0


@pytest.mark.parametrize("error", [asyncio.CancelledError("gone"), TimeoutError("of its own")])
async def test_how_a_request_fails_is_left_alone(error: BaseException) -> None:
    in_flight = InFlight()
    with pytest.raises(type(error), match=str(error)):
        async with in_flight.request(accepted=True):
            raise error
    assert in_flight.accepted == 0
