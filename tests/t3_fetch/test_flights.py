"""What is on its way: how it is told of, and when nobody waits for it."""

import json

import pytest
import trio
from trio.testing import MockClock

from aysfs import digest as digests
from aysfs.fetch.flights import Flights, InFlight, in_words


def test_however_many_are_on_their_way_status_can_tell() -> None:
    flights = [
        InFlight(digests.of(b"%d" % one), 9, 0, one % 3, float(one % 50), f"/opt/{one}")
        for one in range(10_000)
    ]
    answer = in_words(flights)
    assert len(json.dumps(answer)) < 100_000  # a client reads 1 MiB
    told = answer["in_flight"]
    assert isinstance(told, list)
    assert {one["waited"] for one in told} == {49.0}
    assert all(one["waiting"] for one in told)
    waited_for = sum(one.waiting > 0 for one in flights)
    assert answer["in_flight_more"] == waited_for - len(told)


async def test_who_has_just_waited_is_given_a_moment_to_wait_again(
    autojump_clock: MockClock,
) -> None:
    flights = Flights(60, "a test", 16)
    await flights.calm()
    assert trio.current_time() == 0
    flights.press(1)
    calm = trio.Event()

    async def wait() -> None:
        await flights.calm()
        calm.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        for _ in range(3):
            await trio.sleep(1)
            flights.press(-1)
            await trio.sleep(0.015)
            assert not calm.is_set()
            flights.press(1)
        flights.press(-1)
        ended = trio.current_time()
    assert trio.current_time() - ended == pytest.approx(0.02)
