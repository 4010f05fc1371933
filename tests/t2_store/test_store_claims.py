"""What a push counts on and what a gc may delete: notes, waiting, expiry."""

import re
from pathlib import Path

import pytest
import trio
import trio.testing

from aysfs import digest as digests
from aysfs.digest import SIZE, Digest
from aysfs.errors import StoreTrouble
from aysfs.names import parse_name
from aysfs.store import claims
from aysfs.store.claims import (
    GC_EXPIRY,
    GC_LAPSE,
    GC_MAGIC,
    GC_NOTE,
    GC_RENEW,
    LAPSE,
    POLL,
    PUSH_EXPIRY,
    PUSH_MAGIC,
    RENEW,
    BadClaim,
    Claim,
    Sweep,
    read_claims,
    store_time,
)
from aysfs.store.faults import Counts, Vanishes
from aysfs.store.memory import MemoryStore

NAME = parse_name("a__b")
FORMAT = Path(__file__).parents[2] / "docs" / "format.md"


def clock_ns() -> int:
    return 10**18 + int(trio.current_time() * 1e9)


@pytest.fixture
def store(autojump_clock: trio.testing.MockClock) -> MemoryStore:
    """A store whose clock, as everybody's, is the test's."""
    return MemoryStore(clock_ns=clock_ns)


def blob(number: int) -> Digest:
    return digests.of(b"%d" % number)


def some(count: int) -> dict[Digest, int]:
    return {blob(number): 1 for number in range(count)}


def claim_of(store: MemoryStore | Counts | Vanishes) -> Claim:
    return Claim(store, clock=trio.current_time)


def sweep_of(store: MemoryStore | Counts | Vanishes) -> Sweep:
    return Sweep(store, clock=trio.current_time)


async def claimed(store: MemoryStore) -> set[bytes]:
    """What a gc of this moment would read."""
    found = bytearray()
    await read_claims(store, clock_ns(), found.extend)
    return {bytes(found[at : at + SIZE]) for at in range(0, len(found), SIZE)}


async def test_blobs_are_announced_before_the_store_is_asked(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    class Asks(Counts):
        async def missing(self, blobs: object) -> set[Digest]:
            assert await claimed(store) == {blob(0), blob(1)}
            return {blob(1)}

    async with claim_of(Asks(store)) as claim:
        assert await claim.missing(some(2)) == {blob(1)}
    assert store.noted == {}


async def test_a_note_that_grows_is_written_again_until_it_is_full(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    async with claim_of(store) as claim:
        for start in range(0, 10_000, 250):
            await claim.missing({blob(start + number): 1 for number in range(250)})
        assert await claimed(store) == set(some(10_000))
        assert len(store.noted) == 3
    assert store.noted == {}


async def test_what_is_announced_at_once_is_spread_over_full_notes(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    async with claim_of(store) as claim:
        await claim.missing(some(130_001))
        assert await claimed(store) == set(some(130_001))
        assert len(store.noted) == 3
        await claim.missing({blob(-1): 1})
        assert blob(-1) in await claimed(store)
    assert store.noted == {}


async def test_nothing_is_announced_for_nothing(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    counts = Counts(store)
    async with claim_of(counts) as claim:
        assert await claim.missing({}) == set()
        await claim.publish(NAME, [b"x"])
    assert counts.calls == {"put_list": 1}


async def test_a_push_waits_for_a_gc_that_lives(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    said: list[str] = []
    sweep = sweep_of(store)
    await sweep.begin()
    start = trio.current_time()

    async def sweeps() -> None:
        for _ in range(60):
            await trio.sleep(GC_RENEW)
            await sweep.hold()
        await sweep.end()

    async with trio.open_nursery() as nursery, claim_of(store) as claim:
        nursery.start_soon(sweeps)
        claim._waiting = said.append
        await claim.missing(some(1))
        assert GC_NOTE not in store.noted
        assert await claimed(store) == set(some(1))
        assert trio.current_time() - start >= 60 * GC_RENEW
    assert said == ["memory: waiting until a gc has ended"]


async def test_a_gc_that_died_is_waited_for_until_its_note_expires(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    await sweep_of(store).begin()
    start = trio.current_time()
    async with claim_of(store) as claim:
        await claim.missing(some(1))
    assert GC_EXPIRY - claims.SETTLE <= trio.current_time() - start <= GC_EXPIRY + POLL
    start = trio.current_time()
    async with claim_of(store) as claim:
        await claim.missing(some(1))
    assert trio.current_time() == start


async def test_a_claim_is_renewed_while_its_push_goes_on(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    async with claim_of(store) as claim:
        for number in range(30):
            await trio.sleep(RENEW + 1)
            await claim.missing({blob(number): 1})
        assert await claimed(store) == set(some(30))


async def test_a_push_that_slept_asks_again_before_it_publishes(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    there = store.add(b"there")
    async with claim_of(store) as claim:
        assert await claim.missing({there: 5}) == set()
        await trio.sleep(PUSH_EXPIRY + 1)
        assert await claimed(store) == set()
        await claim.publish(NAME, [b"list"])
        assert await claimed(store) == {there}
    async with claim_of(store) as claim:
        assert await claim.missing({there: 5}) == set()
        await trio.sleep(LAPSE + 1)
        del store.blobs[there]
        with pytest.raises(StoreTrouble, match="1 blobs were removed"):
            await claim.publish(NAME, [b"newer"])
    assert store.published[NAME][0] == b"list"


async def test_a_push_that_slept_between_two_batches_asks_again_too(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    there = store.add(b"there")
    claim = claim_of(store)
    assert await claim.missing({there: 5}) == set()
    await trio.sleep(PUSH_EXPIRY + 1)
    del store.blobs[there]
    await claim.missing({store.add(b"more"): 4})
    with pytest.raises(StoreTrouble, match="1 blobs were removed"):
        await claim.publish(NAME, [b"list"])


async def test_a_push_that_slept_takes_new_notes_since_a_gc_may_delete_the_old(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    claim = claim_of(store)
    await claim.missing(some(1))
    await trio.sleep(PUSH_EXPIRY + 1)
    dead = await read_claims(store, clock_ns(), bytearray().extend)
    await claim.missing({blob(1): 1})
    for name in dead:
        await store.delete_note(name)
    assert await claimed(store) == {blob(0), blob(1)}


async def test_notes_stay_where_a_list_may_still_appear(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    unsteady = Vanishes(store)
    claim = claim_of(unsteady)
    await claim.missing(some(1))
    unsteady.gone = True
    with pytest.raises(StoreTrouble):
        await claim.publish(NAME, [b"x"])
    unsteady.gone = False
    await claim.aclose()
    assert await claimed(store) == set(some(1))


async def test_a_push_that_fails_before_counts_on_nothing(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    async def fails() -> None:
        async with claim_of(store) as claim:
            await claim.missing(some(1))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fails()
    assert store.noted == {}


@pytest.mark.parametrize("data", [b"", b"aysfs push 2\n", PUSH_MAGIC + b"short", b"\0" * 16])
async def test_a_claim_that_cannot_be_read_is_uncertain_until_it_expires(
    store: MemoryStore, autojump_clock: trio.testing.MockClock, data: bytes
) -> None:
    await store.write_note(".push-abc-0", data)
    with pytest.raises(BadClaim, match=r"\.push-abc-0"):
        await claimed(store)
    await trio.sleep(PUSH_EXPIRY + 1)
    assert await read_claims(store, clock_ns(), bytearray().extend) == [".push-abc-0"]


async def test_the_time_of_a_store_leaves_nothing(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    await trio.sleep(5)
    assert await store_time(store) == clock_ns()
    assert store.noted == {}


async def test_a_second_gc_is_refused_until_the_first_has_expired(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    first = sweep_of(store)
    await first.begin()
    with pytest.raises(StoreTrouble, match="another gc is at work"):
        await sweep_of(store).begin()
    await trio.sleep(GC_EXPIRY + 1)
    second = sweep_of(store)
    await second.begin()
    with pytest.raises(StoreTrouble, match="has taken over"):
        await first.delete([blob(0)])
    await first.end()
    await second.delete([blob(0)])
    await second.end()
    assert store.noted == {}


async def test_of_two_gcs_that_begin_at_once_one_goes_on(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    began: list[Sweep] = []
    refused: list[str] = []

    async def begin() -> None:
        sweep = sweep_of(store)
        try:
            await sweep.begin()
            began.append(sweep)
        except StoreTrouble as error:
            refused.append(str(error))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(begin)
    [one] = began
    assert refused == ["memory: another gc began at the same time"] * 2
    await one.delete([])
    await one.end()
    assert store.noted == {}


async def test_a_gc_that_slept_deletes_no_more(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    kept = store.add(b"x")
    sweep = sweep_of(store)
    await sweep.begin()
    await trio.sleep(GC_LAPSE + 1)
    with pytest.raises(StoreTrouble, match="stood still"):
        await sweep.delete([kept])
    assert kept in store.blobs


async def test_a_gc_whose_note_was_removed_deletes_no_more(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    sweep = sweep_of(store)
    await sweep.begin()
    await store.delete_note(GC_NOTE)
    await trio.sleep(GC_RENEW + 1)
    with pytest.raises(StoreTrouble, match="another gc has taken over"):
        await sweep.hold()


async def test_a_deletion_that_failed_leaves_the_note_of_the_gc(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    unsteady = Vanishes(store)
    sweep = sweep_of(unsteady)
    await sweep.begin()
    unsteady.gone = True
    with pytest.raises(StoreTrouble):
        await sweep.delete([blob(0)])
    unsteady.gone = False
    await sweep.end()
    assert store.noted[GC_NOTE].startswith(GC_MAGIC)


async def test_the_notes_are_as_the_format_has_them(
    store: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    claim = claim_of(store)
    await claim.missing(some(2))
    [(name, data)] = store.noted.items()
    assert name == f".push-{claim._id}-0"
    assert data == b"aysfs push 1\n" + blob(0) + blob(1)
    await claim.aclose()
    section = FORMAT.read_text().partition("## Claims")[2].partition("\n#")[0]
    digits = re.findall(r"^    ((?:[0-9A-F]{2} )+)", section, re.MULTILINE)
    await claim.missing({digests.of(b"hello\n"): 6})
    assert list(store.noted.values()) == [bytes.fromhex("".join(digits))]
    await claim.aclose()
    sweep = sweep_of(store)
    await sweep.begin()
    data = store.noted[".gc"]
    assert (data[:11], len(data), data[-1:]) == (b"aysfs gc 1\n", 44, b"\n")
