"""Processes that take blobs in: what they bring is here and verified, whatever becomes of them."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from aysfs import digest as digests
from aysfs.cache.blobs import Cache
from aysfs.errors import AysfsError, CacheUnusable, NoSpace, PackDamaged
from aysfs.fetch import carry as carry_module
from aysfs.fetch import workers as workers_module
from aysfs.fetch.ahead import Ahead
from aysfs.fetch.fetcher import Fetcher, open_fetcher
from aysfs.fetch.segment import Frame
from aysfs.fetch.workers import WorkerLost, Workers
from aysfs.limits import Limits
from aysfs.pack.frame import compress
from aysfs.store.faults import Counts, Passes
from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import Store
from tests.cancelling import Cut, Traces, assert_nothing_left, at_every_await
from tests.conftest import ExpectOutput, open_descriptors
from tests.packing import many, packed
from tests.t3_fetch.carrying import ROOMY, follow, has, read_all

DATA = many(1200, 1600)
LOST = r"^WARNING +aysfs\.fetch\.workers:.* a process that takes blobs in is lost: .*$"


@pytest.fixture(autouse=True)
def from_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few there are."""
    monkeypatch.setattr(workers_module, "_FEW", 0)


@asynccontextmanager
async def workers_of(
    tmp_path: Path, limits: Limits = ROOMY, most: int = 1
) -> AsyncIterator[Workers]:
    cache = Cache(tmp_path / "cache", limits)
    workers = Workers(cache, most)
    try:
        yield workers
    finally:
        await workers.end()
        cache.close()
    assert children() == set()
    assert not os.listdir(tmp_path / "cache/tmp")


@asynccontextmanager
async def serving(tmp_path: Path, store: Store, processes: int = 2) -> AsyncIterator[Fetcher]:
    cache = Cache(tmp_path / "cache", ROOMY)
    try:
        async with open_fetcher(cache, store, processes=processes) as fetcher:
            yield fetcher
    finally:
        cache.close()
    assert children() == set()
    assert not os.listdir(tmp_path / "cache/tmp")


def children() -> set[int]:
    """Processes that we have started to take blobs in; another test's server is none."""
    return {
        int(pid)
        for task in os.listdir("/proc/self/task")
        for pid in Path(f"/proc/self/task/{task}/children").read_text().split()
        if b"aysfs.fetch.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    }


async def both() -> set[int]:
    """Two processes. One that has just been started has no command line for a moment."""
    while len(there := children()) < 2:
        await trio.lowlevel.checkpoint()
    return there


def batch(frames: list[bytes], blobs: list[bytes]) -> tuple[list[Frame], memoryview]:
    """Frames that say to be these blobs, one behind the other."""
    placed, at = [], 0
    for frame, one in zip(frames, blobs, strict=True):
        placed.append(Frame(digests.of(one), len(one), at, len(frame)))
        at += len(frame)
    return placed, memoryview(b"".join(frames))


class Told(dict[int, AysfsError | None]):
    """What became of each."""

    def __call__(self, number: int, error: AysfsError | None) -> None:
        assert number not in self
        self[number] = error


async def test_everything_comes_by_processes_and_none_is_left(
    tmp_path: Path, no_leaks: None
) -> None:
    memory = MemoryStore()
    index = packed(memory, [DATA[:500], DATA[500:]])
    seen: set[int] = set()

    class Looks(Passes):
        async def get_range(self, *asked: object) -> None:
            await super().get_range(*asked)  # type: ignore[arg-type]  # as they came
            seen.update(children())

    async with serving(tmp_path, Looks(memory)) as fetcher:
        fetcher.crew.packs.add(index)
        going = await follow(fetcher, index)
        assert going.state == "done"
        assert all(has(fetcher, one) for one in DATA)
        assert fetcher.counters.fetched == len(DATA)
    assert 1 <= len(seen) <= 2


async def test_readers_beside_it_get_their_bytes_and_no_byte_comes_twice(
    tmp_path: Path, no_leaks: None
) -> None:
    memory = MemoryStore()
    index = packed(memory, [DATA])
    store = Counts(memory)
    async with serving(tmp_path, store) as fetcher:
        fetcher.crew.packs.add(index)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, fetcher, index)
            for start in range(0, len(DATA), 100):
                nursery.start_soon(read_all, fetcher, DATA[start : start + 100 : 7])
    assert sum(length for _, _, length in store.ranges) <= index.packs[0].size
    assert not store.gets


async def test_each_trouble_is_told_of_and_the_others_come(tmp_path: Path, no_leaks: None) -> None:
    blobs = [DATA[0], DATA[1], b"large" * 300_000, DATA[3], DATA[4]]
    frames = [compress(one) for one in blobs]
    frames[1] = compress(DATA[7])
    frames[3] = b"no frame at all"
    async with workers_of(tmp_path) as workers:
        told = Told()
        await workers.take_in(*batch(frames, blobs), told)
        assert [type(told[number]) for number in range(5)] == [
            type(None),
            PackDamaged,
            type(None),
            PackDamaged,
            type(None),
        ]
        cache = Cache(tmp_path / "cache", ROOMY)
        assert [cache.has(digests.of(one), len(one)) for one in blobs] == [
            one is None for _, one in sorted(told.items())
        ]
        cache.close()


async def test_nothing_is_evicted_and_a_full_cache_is_told_of(
    tmp_path: Path, no_leaks: None
) -> None:
    async with workers_of(tmp_path, Limits(size=40 * 4096, keep_free=0)) as workers:
        told = Told()
        blobs = DATA[:60]
        await workers.take_in(*batch([compress(one) for one in blobs], blobs), told)
        refused = [number for number, error in told.items() if isinstance(error, NoSpace)]
        assert refused == [*range(refused[0], 60)]
        assert 30 <= refused[0] <= 40


async def test_a_process_that_is_killed_costs_no_blob(
    tmp_path: Path, no_leaks: None, expected_output: ExpectOutput
) -> None:
    expected_output(LOST)
    memory = MemoryStore()
    index = packed(memory, [DATA])
    killed: set[int] = set()

    def kill() -> None:
        for pid in children() - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)

    async with serving(tmp_path, memory) as fetcher:
        fetcher.crew.packs.add(index)
        going = await follow(fetcher, index, Ahead(fetcher, tell=kill))
        assert going.state == "done"
        assert all(has(fetcher, one) for one in DATA)
    assert killed


async def test_a_process_that_answers_nothing_is_given_up(
    tmp_path: Path,
    no_leaks: None,
    expected_output: ExpectOutput,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected_output(r"^WARNING +aysfs\.fetch\.workers:.* is lost: no answer in 1 s$")
    monkeypatch.setattr(workers_module, "_PATIENCE", 1.0)
    async with workers_of(tmp_path) as workers:
        frames, part = batch([compress(one) for one in DATA[:9]], DATA[:9])
        await workers.take_in(frames, part, Told())
        (pid,) = children()
        os.kill(pid, signal.SIGSTOP)
        told = Told()
        with pytest.raises(WorkerLost):
            await workers.take_in(frames, part, told)
        assert told == {}
        assert not workers.are_worth_it(1000)


async def test_who_waits_for_a_process_that_is_given_up_does_not_wait_for_another(
    tmp_path: Path,
    no_leaks: None,
    expected_output: ExpectOutput,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected_output(LOST)
    monkeypatch.setattr(workers_module, "_PATIENCE", 0.3)
    command = ["sh", "-c", f"echo started >> {tmp_path}/started; exec sleep 600"]
    monkeypatch.setattr(workers_module, "_COMMAND", command)
    frames, part = batch([compress(one) for one in DATA[:9]], DATA[:9])
    lost = 0

    async def work() -> None:
        nonlocal lost
        with pytest.raises(WorkerLost):
            await workers.take_in(frames, part, Told())
        lost += 1

    async with workers_of(tmp_path) as workers, trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(work)
    assert lost == 4
    assert (tmp_path / "started").read_text().count("started") == 1


@pytest.mark.parametrize("command", [["false"], ["/nowhere/at/all"]])
async def test_what_cannot_be_started_is_done_here(
    tmp_path: Path,
    no_leaks: None,
    expected_output: ExpectOutput,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
) -> None:
    expected_output(LOST)
    monkeypatch.setattr(workers_module, "_COMMAND", command)
    memory = MemoryStore()
    index = packed(memory, [DATA])
    async with serving(tmp_path, memory) as fetcher:
        fetcher.crew.packs.add(index)
        assert (await follow(fetcher, index)).state == "done"
        assert all(has(fetcher, one) for one in DATA)


async def test_few_blobs_are_worth_no_process(
    tmp_path: Path, no_leaks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "_FEW", 256)
    async with workers_of(tmp_path) as workers:
        assert not workers.are_worth_it(200)
        assert not workers.are_worth_it(50)
        assert workers.are_worth_it(50)


async def test_one_without_work_ends_and_another_is_started_when_there_is_some(
    tmp_path: Path, no_leaks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "_IDLE", 0.05)
    async with workers_of(tmp_path) as workers, trio.open_nursery() as nursery:
        nursery.start_soon(workers.end_idle)
        for some in (DATA[:9], DATA[9:20]):
            told = Told()
            await workers.take_in(*batch([compress(one) for one in some], some), told)
            assert len(told) == len(some)
            while children():
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


async def test_one_that_gets_work_while_another_without_any_ends_is_left_alone(
    tmp_path: Path, no_leaks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "_IDLE", 0.05)
    frames, part = batch([compress(one) for one in DATA], DATA)
    async with workers_of(tmp_path, most=2) as workers, trio.open_nursery() as nursery:
        async with trio.open_nursery() as both:
            both.start_soon(workers.take_in, frames[:5], part, Told())
            both.start_soon(workers.take_in, frames[:5], part, Told())
        pids, opened = children(), len(open_descriptors())
        assert len(pids) == 2
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        nursery.start_soon(workers.end_idle)
        while len(open_descriptors()) >= opened:  # until the first is told to end
            await trio.lowlevel.checkpoint()
        told = Told()
        async with trio.open_nursery() as work:
            work.start_soon(workers.take_in, frames, part, told)
            await trio.testing.wait_all_tasks_blocked()
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        assert told == dict.fromkeys(range(len(DATA)))
        nursery.cancel_scope.cancel()


async def test_a_cache_that_it_may_not_use_is_told_of_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], expected_output: ExpectOutput
) -> None:
    expected_output(LOST)
    async with workers_of(tmp_path) as workers:
        (tmp_path / "cache/lock").rename(tmp_path / "cache/lock.old")
        (tmp_path / "cache/lock").mkdir()
        with pytest.raises(WorkerLost):
            await workers.take_in(*batch([compress(DATA[0])], DATA[:1]), Told())
        (tmp_path / "cache/lock").rmdir()
        (tmp_path / "cache/lock.old").rename(tmp_path / "cache/lock")
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("aysfs: taking blobs in: ")


@pytest.mark.parametrize("name", ["\u00e9" * 100, "x" + "\u00e9" * 100], ids=["even", "odd"])
async def test_words_that_are_cut_amid_a_character_are_understood(
    tmp_path: Path, no_leaks: None, name: str
) -> None:
    place = tmp_path.joinpath(name, *["\u00e9" * 100] * 5)
    place.mkdir(parents=True)
    async with workers_of(place) as workers:
        await workers.take_in(*batch([compress(DATA[9])], DATA[9:10]), Told())
        (place / "cache/objects").rename(place / "objects")
        (place / "cache/objects").write_bytes(b"")
        told = Told()
        await workers.take_in(*batch([compress(one) for one in DATA[:3]], DATA[:3]), told)
        assert [type(error) for error in told.values()] == [CacheUnusable] * 3


async def test_answers_that_nobody_took_are_not_taken_for_those_of_the_next_batch(
    tmp_path: Path, no_leaks: None
) -> None:
    class Bug(Exception):
        pass

    def has_a_bug(_number: int, _error: AysfsError | None) -> None:
        raise Bug

    async with workers_of(tmp_path) as workers:
        with pytest.raises(Bug):
            await workers.take_in(*batch([compress(one) for one in DATA], DATA), has_a_bug)
        told = Told()
        await workers.take_in(*batch([b"no frame"] * 3, DATA[:3]), told)
        assert [type(error) for error in told.values()] == [PackDamaged] * 3


async def test_who_is_sure_to_need_them_has_them_there_at_once(
    tmp_path: Path, no_leaks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "_FEW", 256)
    frames, part = batch([compress(one) for one in DATA[:5]], DATA[:5])
    async with workers_of(tmp_path, most=2) as workers:
        await workers.get_ready(256)
        assert children() == set()
        await workers.get_ready(257)
        there = await both()
        assert workers.are_worth_it(1)
        await workers.get_ready(257)
        told = Told()
        await workers.take_in(frames, part, told)
        assert told == dict.fromkeys(range(5))
        assert children() == there


async def test_much_of_packs_is_known_to_be_wanted_by_a_sample(
    tmp_path: Path, no_leaks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "_FEW", 256)
    memory = MemoryStore()
    index = packed(memory, [DATA])
    async with serving(tmp_path, memory) as fetcher:
        for number in range(len(index)):
            if number % 5:
                fetcher.cache.keep(index.digest(number), DATA[number])
        await fetcher.crew.get_ready(index)
        assert children() == set(), "about 240 of 1,200 are missing"
        for number in range(1, len(index), 5):
            os.unlink(fetcher.cache.path(index.digest(number)))
        await fetcher.crew.get_ready(index)
        await both()  # now that twice as many are


async def test_getting_ready_cut_anywhere_leaves_nothing(tmp_path: Path) -> None:
    async def attempt(cut: Cut) -> None:
        cache = Cache(tmp_path / str(cut.number), ROOMY)
        before = Traces.of(cache)
        workers = Workers(cache, 2)
        await cut.during(partial(workers.get_ready, 1))
        await workers.end()
        assert children() == set()
        assert_nothing_left(cache, before)
        cache.close()

    assert await at_every_await(attempt) > 1


async def test_work_that_is_cut_anywhere_is_finished_or_was_not_begun(tmp_path: Path) -> None:
    frames, part = batch([compress(one) for one in DATA[:5]], DATA[:5])

    async def attempt(cut: Cut) -> None:
        cache = Cache(tmp_path / str(cut.number), ROOMY)
        before = Traces.of(cache)
        workers = Workers(cache, 1)
        told = Told()
        await cut.during(partial(workers.take_in, frames, part, told))
        assert len(told) in (0, 5)
        assert [cache.has(frame.digest, frame.size) for frame in frames] == [bool(told)] * 5
        await workers.end()
        assert children() == set()
        assert_nothing_left(cache, before)
        cache.close()

    assert await at_every_await(attempt) > 3


async def test_a_process_is_given_so_many_bytes_at_once_and_not_more(
    tmp_path: Path, no_leaks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carry_module, "_GIVEN_BYTES", 5000)
    data = [*DATA[:50], *many(3, 20_000), *DATA[50:60]]
    given = await given_at_once(tmp_path, monkeypatch, data)
    several = [length for count, length, _ in given if count > 1]
    assert 3000 < max(several) <= 5000
    assert len(given) - len(several) >= 3


async def test_a_process_is_given_so_much_content_at_once_and_not_more(
    tmp_path: Path, no_leaks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carry_module, "_GIVEN_CONTENT", 1 << 20)
    data = [bytes(100_000 + number) for number in range(40)]
    data[20:20] = [bytes(2 << 20), bytes(3 << 20)]
    given = await given_at_once(tmp_path, monkeypatch, data)
    several = [size for count, _, size in given if count > 1]
    assert 900_000 < max(several) <= 1 << 20
    assert len(given) - len(several) >= 2


async def given_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: list[bytes]
) -> list[tuple[int, int, int]]:
    """The blobs of each batch that a process is given for these, their frames' and own bytes."""
    given: list[tuple[int, int, int]] = []
    take_in = Workers.take_in

    async def noted(
        self: Workers, frames: Sequence[Frame], part: memoryview, told: Callable[..., None]
    ) -> None:
        given.append((len(frames), len(part), sum(one.size for one in frames)))
        await take_in(self, frames, part, told)

    monkeypatch.setattr(Workers, "take_in", noted)
    memory = MemoryStore()
    index = packed(memory, [data])
    async with serving(tmp_path, memory) as fetcher:
        fetcher.crew.packs.add(index)
        await follow(fetcher, index)
        assert all(has(fetcher, one) for one in data)
    return given
