"""Waiting for the kernel's requests: at once when one is there, and without starving others."""

import os
from collections.abc import Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from aysfs.mount.arrivals import TURN, Arrivals

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


async def test_what_is_there_is_taken_without_a_turn_of_the_loop(pipe: Pipe) -> None:
    reader, writer = pipe
    os.write(writer, b"x")
    arrivals = Arrivals()
    with trio.CancelScope() as scope:
        scope.cancel()  # any checkpoint would end the block
        for _ in range(TURN - 1):
            await arrivals.wait_readable(reader)
    assert not scope.cancelled_caught


async def test_other_tasks_get_turns_under_load(pipe: Pipe) -> None:
    reader, writer = pipe
    os.write(writer, b"x")
    arrivals = Arrivals()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(100 * TURN):
            await arrivals.wait_readable(reader)
        nursery.cancel_scope.cancel()
    assert turns >= 95  # one in each of the 100, less those at either end


async def test_every_request_finds_a_task_and_no_task_finds_none(pipe: Pipe) -> None:
    reader, writer = pipe
    os.set_blocking(reader, False)  # a task let through for nothing fails at once
    arrivals = Arrivals()
    taken = 0

    async def session() -> None:
        nonlocal taken
        while True:
            await arrivals.wait_readable(reader)
            assert len(os.read(reader, 1)) == 1
            taken += 1

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(session)
        for burst in (1, 3, 40, 1):
            await wait_all_tasks_blocked()
            os.write(writer, b"x" * burst)
        await wait_all_tasks_blocked()
        assert taken == 45
        nursery.cancel_scope.cancel()


async def test_a_cancelled_watcher_hands_over(pipe: Pipe) -> None:
    reader, writer = pipe
    arrivals = Arrivals()
    first, done = trio.CancelScope(), trio.Event()

    async def watch() -> None:
        with first:
            await arrivals.wait_readable(reader)

    async def wait() -> None:
        await arrivals.wait_readable(reader)
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        first.cancel()
        await wait_all_tasks_blocked()
        os.write(writer, b"x")
        await done.wait()


async def test_closing_ends_every_wait(pipe: Pipe) -> None:
    reader, _ = pipe
    arrivals = Arrivals()
    ended = 0

    async def wait() -> None:
        nonlocal ended
        with pytest.raises(trio.ClosedResourceError):
            await arrivals.wait_readable(reader)
        ended += 1

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        arrivals.notify_closing(reader)
    assert ended == 3
    with pytest.raises(trio.ClosedResourceError):
        await arrivals.wait_readable(reader)
