"""A chain: whose answer counts, who is left alone, and that a writer fills every store."""

import io
import threading
from collections.abc import Sequence

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import (
    AysfsError,
    BlobMissing,
    Corrupt,
    ListMissing,
    NoRanges,
    NoteMissing,
    StoreTrouble,
)
from aysfs.names import parse_name
from aysfs.store.chain import FIRST_REST, LONGEST_REST, PATIENCE, Chain
from aysfs.store.directory import DirectoryStore
from aysfs.store.faults import (
    AnswersAnother,
    Counts,
    FailsAlways,
    FailsOnce,
    FlipsLastByte,
    Passes,
    Stalls,
    Truncates,
    Vanishes,
    WithoutRanges,
)
from aysfs.store.memory import MemoryStore
from aysfs.store.open import open_stores
from aysfs.store.protocol import BlobSource, Held, Sink, Store
from tests.conftest import ExpectOutput

DATA = bytes(range(256)) * 1000  # four chunks of a memory store
DIGEST = digests.of(DATA)
NAME = parse_name("jumpscale__base")


@pytest.fixture(autouse=True)
def what_is_wrong_is_logged(expected_output: ExpectOutput) -> None:
    expected_output(r"^WARNING +aysfs\.store\.chain:.*(is left alone for|sent wrong bytes).*$")


class Verified(Held):
    """A sink that refuses other bytes with the last of them, as the cache does."""

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]  # BytesIO takes more
        count = super().write(data)
        if self.tell() >= len(DATA) and self.getvalue() != DATA:
            raise Corrupt("wrong bytes")
        return count


def memory(label: str = "memory", *blobs: bytes) -> MemoryStore:
    store = MemoryStore(label)
    for blob in blobs:
        store.add(blob)
    return store


async def get(chain: Chain) -> bytes:
    sink = Verified()
    await chain.get(DIGEST, len(DATA), sink)
    return sink.getvalue()


def test_addresses_become_one_chain_in_their_order(tmp_path: object) -> None:
    one = open_stores([f"{tmp_path}/a"])
    assert isinstance(one, DirectoryStore)
    chain = open_stores([f"{tmp_path}/a", f"file://{tmp_path}/b", f"{tmp_path}/a"])
    assert isinstance(chain, Chain)
    assert chain.label == f"{tmp_path}/a, {tmp_path}/b, {tmp_path}/a"
    assert [type(store) for store in chain.stores] == [DirectoryStore] * 3
    assert [state.label for state in chain.states()] == chain.label.split(", ")


# --- reading ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        MemoryStore(),
        FailsAlways(memory()),
        FlipsLastByte(memory("bad", DATA)),
        Truncates(memory("short", DATA), 70_000),
        AnswersAnother(memory(), b"<html>"),
        AnswersAnother(memory(), DATA + b"more"),
        Chain([MemoryStore(), FailsAlways(memory())]),
    ],
    ids=["empty", "failing", "flipping", "short", "page", "longer", "chain"],
)
async def test_another_store_stands_in(first: Store) -> None:
    chain = Chain([first, memory("good", DATA), FailsAlways(memory())])
    assert await get(chain) == DATA
    assert await get(chain) == DATA


class VerifiedPart(Held):
    """A sink that refuses other bytes than the part's with the last of them."""

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]  # BytesIO takes more
        count = super().write(data)
        if self.tell() >= LENGTH and self.getvalue() != PART:
            raise Corrupt("wrong bytes")
        return count


START, LENGTH = 1000, 200_000
PART = DATA[START : START + LENGTH]


async def get_part(chain: Chain) -> bytes:
    sink = VerifiedPart()
    await chain.get_range(DIGEST, len(DATA), START, LENGTH, sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    "first",
    [
        MemoryStore(),
        FailsAlways(memory()),
        FlipsLastByte(memory("bad", DATA)),
        Truncates(memory("short", DATA), 70_000),
        AnswersAnother(memory(), b"<html>"),
        WithoutRanges(memory("plain", DATA)),
        Chain([MemoryStore(), WithoutRanges(memory()), FailsAlways(memory())]),
    ],
    ids=["empty", "failing", "flipping", "short", "page", "plain", "chain"],
)
async def test_another_store_stands_in_for_a_part(first: Store) -> None:
    chain = Chain([first, memory("good", DATA), FailsAlways(memory())])
    assert await get_part(chain) == PART
    assert await get_part(chain) == PART


@pytest.mark.parametrize(
    ("other", "kind"),
    [
        (memory("b"), BlobMissing),
        (FailsAlways(memory("b")), StoreTrouble),
        (FlipsLastByte(memory("b", DATA)), Corrupt),
    ],
    ids=["empty", "failing", "flipping"],
)
async def test_a_store_without_ranges_can_be_asked_for_the_whole(
    other: Store, kind: type[AysfsError]
) -> None:
    with pytest.raises(kind):
        await get_part(Chain([memory("a"), other]))
    for stores in ([WithoutRanges(memory("a")), other], [other, WithoutRanges(memory("a"))]):
        sink = VerifiedPart()
        with pytest.raises(NoRanges, match="a: gives no parts"):
            await Chain(stores).get_range(DIGEST, len(DATA), START, LENGTH, sink)
        assert sink.getvalue() == b""


async def test_a_store_without_ranges_is_not_left_alone() -> None:
    chain = Chain([WithoutRanges(memory("a", DATA)), memory("b")])
    with pytest.raises(NoRanges):
        await get_part(chain)
    assert [state.rest for state in chain.states()] == [0, 0]


async def test_a_bad_source_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    assert await get(Chain([FlipsLastByte(memory("bad", DATA)), memory("good", DATA)])) == DATA
    assert "bad sent wrong bytes" in caplog.text
    assert DIGEST.hex() in caplog.text or "wrong bytes" in caplog.text


@pytest.mark.parametrize(
    ("stores", "kind", "words"),
    [
        ([memory("a"), memory("b")], BlobMissing, "a has no blob .*; b has no blob"),
        ([memory("a"), FailsAlways(memory("b"))], StoreTrouble, "a has no blob .*; b: always"),
        ([FailsAlways(memory("a")), memory("b")], StoreTrouble, "a: always fails; b has no blob"),
        ([FlipsLastByte(memory("a", DATA)), memory("b")], Corrupt, "wrong bytes; b has no"),
        ([FlipsLastByte(memory("a", DATA)), FailsAlways(memory("b"))], StoreTrouble, "wrong"),
        ([memory("a")], BlobMissing, "a has no blob"),
    ],
)
async def test_what_is_said_when_none_has_it(
    stores: Sequence[Store], kind: type[AysfsError], words: str
) -> None:
    with pytest.raises(kind, match=words) as raised:
        await get(Chain(stores))
    assert type(raised.value) is kind


async def test_what_a_sink_says_of_its_disk_ends_the_search() -> None:
    class Full(Held):
        def write(self, data: object, /) -> int:
            raise OSError(28, "no room here")

    second = Counts(memory("b", DATA))
    with pytest.raises(OSError, match="no room here"):
        await Chain([memory("a", DATA), second]).get(DIGEST, len(DATA), Full())
    assert not second.calls


async def test_a_store_in_trouble_is_left_alone_for_a_while_that_doubles(
    autojump_clock: MockClock,
) -> None:
    first = Vanishes(counted := Counts(memory("a", DATA)))
    chain = Chain([first, memory("b", DATA)])
    first.gone = True
    rest = FIRST_REST
    for _ in range(10):
        assert await get(chain) == DATA
        state = chain.states()[0]
        assert (state.label, round(state.rest), state.why) == ("a", rest, "a: gone")
        await trio.sleep(rest * 0.99)
        first.gone = False
        assert await get(chain) == DATA
        assert not counted.calls
        first.gone = True
        await trio.sleep(rest * 0.02)
        rest = min(LONGEST_REST, rest * 2)
    first.gone = False
    await trio.sleep(LONGEST_REST)
    assert await get(chain) == DATA
    assert counted.calls["get"] == 1
    assert chain.states()[0] == ("a", 0, "")


async def test_an_outage_of_days_costs_the_other_stores_nothing(mock_clock: MockClock) -> None:
    chain = Chain([FailsAlways(memory("bad")), memory("good", DATA)])
    for _ in range(2000):  # the rest is a minute: 33 hours
        assert await get(chain) == DATA
        mock_clock.jump(LONGEST_REST)
    assert chain.states()[0].rest == 0
    assert await get(chain) == DATA
    assert chain.states()[0].rest == LONGEST_REST


async def test_failures_of_one_outage_count_once() -> None:
    first = FailsAlways(memory("a"))
    chain = Chain([first, memory("b", DATA)])
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(get, chain)
    assert 0 < chain.states()[0].rest <= FIRST_REST


class Waits(Passes):
    """Answers when it is let, and then fails or not."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.asked = 0
        self.go = trio.Event()

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        self.asked += 1
        await self.go.wait()
        await super().get(digest, size, sink)


async def test_one_request_tries_a_store_that_was_left_alone(mock_clock: MockClock) -> None:
    waits = Waits(once := FailsOnce(memory("a", DATA)))
    chain = Chain([waits, memory("b", DATA)])
    waits.go.set()
    assert await get(chain) == DATA
    waits.go = trio.Event()
    mock_clock.jump(FIRST_REST)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(get, chain)
        await wait_all_tasks_blocked()
        assert waits.asked == 2
        waits.go.set()
    assert once is waits._inner
    assert await get(chain) == DATA
    assert waits.asked == 3


async def test_a_trial_that_is_cancelled_is_no_answer(mock_clock: MockClock) -> None:
    waits = Waits(FailsOnce(memory("a", DATA)))
    chain = Chain([waits, memory("b", DATA)])
    waits.go.set()
    assert await get(chain) == DATA
    waits.go = trio.Event()
    mock_clock.jump(FIRST_REST)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(get, chain)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert waits.asked == 2
    waits.go.set()
    assert await get(chain) == DATA
    assert waits.asked == 3


async def test_a_silent_store_is_given_up_in_favour_of_the_next(
    autojump_clock: MockClock,
) -> None:
    began = trio.current_time()
    chain = Chain([Stalls(memory("a", DATA), after=1000), memory("b", DATA)])
    assert await get(chain) == DATA
    assert trio.current_time() - began == PATIENCE
    assert chain.states()[0].why == f"a: not a byte in {PATIENCE:g} s"


class Slow(Passes):
    """A chunk now and then: slow, and not silent. From a thread when asked."""

    def __init__(self, inner: Store, *, threaded: bool) -> None:
        super().__init__(inner)
        self._threaded = threaded

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        data = await self._bytes(digest, size)
        for start in range(0, size, 50_000):
            piece = data[start : start + 50_000]
            if self._threaded:
                thread = threading.Thread(target=sink.write, args=[piece])
                thread.start()
                thread.join()
                await trio.lowlevel.checkpoint()
            else:
                sink.write(piece)
            await trio.sleep(PATIENCE * 0.9)


@pytest.mark.parametrize("threaded", [True, False])
async def test_a_slow_store_is_not_a_silent_one(autojump_clock: MockClock, threaded: bool) -> None:
    second = Counts(memory("b", DATA))
    assert await get(Chain([Slow(memory("a", DATA), threaded=threaded), second])) == DATA
    assert not second.calls


async def test_what_any_store_has_at_hand_is_taken(tmp_path: object) -> None:
    near = open_stores([f"{tmp_path}/near"])
    assert isinstance(near, DirectoryStore)
    chain = Chain([memory("far", b"x"), near])
    assert chain.at_hand(digests.of(b"x"), 1) is None


async def test_an_outage_does_not_change_which_list_wins() -> None:
    first, second = memory("a"), memory("b")
    await second.put_list(NAME, [b"second"])
    gone = Vanishes(first)
    chain = Chain([gone, second])
    with (await chain.open_list(NAME)).file as file:
        assert file.read() == b"second"
    await first.put_list(NAME, [b"first"])
    gone.gone = True
    with pytest.raises(StoreTrouble, match="a: gone") as refused:
        await chain.open_list(NAME)
    assert "name it last to go without it" in str(refused.value.hint)
    with pytest.raises(StoreTrouble) as last:
        await Chain([second, gone]).open_list(parse_name("other"))
    assert "name it last" not in str(last.value.hint)
    with pytest.raises(StoreTrouble):
        await chain.lists()
    gone.gone = False
    with (await chain.open_list(NAME)).file as file:
        assert file.read() == b"first"
    assert await chain.lists() == [NAME]
    with pytest.raises(ListMissing, match="no list jumpscale__other in a, b"):
        await chain.open_list(parse_name("other"))


async def test_notes_are_kept_in_every_store_and_read_from_the_first_that_has_them() -> None:
    stores = [memory("a"), memory("b")]
    chain = Chain(stores)
    await chain.write_note("n", b"data")
    assert [store.noted for store in stores] == [{"n": b"data"}] * 2
    del stores[0].noted["n"]
    assert await chain.read_note("n") == b"data"
    assert list(await chain.notes()) == ["n"]
    await chain.delete_note("n")
    with pytest.raises(NoteMissing):
        await chain.read_note("n")


# --- writing ------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", [False, True])
async def test_a_note_is_deleted_wherever_it_can_be(turned: bool) -> None:
    good = memory("good")
    await good.write_note("n", b"data")
    stores: list[Store] = [FailsAlways(memory("bad")), Later(good)]
    with pytest.raises(StoreTrouble, match="bad: always fails"):
        await Chain(stores[::-1] if turned else stores).delete_note("n")
    assert good.noted == {}


class Later(Passes):
    """Answers after others have."""

    async def delete_note(self, name: str) -> None:
        await wait_all_tasks_blocked()
        await super().delete_note(name)


async def test_a_blob_is_put_where_it_is_not_yet() -> None:
    stores = [memory("a", b"one", b"two"), memory("b", b"two"), memory("c")]
    counts = [Counts(store) for store in stores]
    chain = Chain(counts)
    wanted = {digests.of(data): len(data) for data in (b"one", b"two", b"three")}
    assert await chain.missing(wanted) == set(wanted)
    await chain.put_many([BlobSource.of(digests.of(b"three"), b"three")])
    await chain.put(digests.of(b"one"), 3, io.BytesIO(b"one"))
    await chain.put(digests.of(b"two"), 3, io.BytesIO(b"two"))
    assert [sorted(store.blobs) for store in stores] == [sorted(wanted)] * 3
    assert [sum(count.puts.values()) for count in counts] == [1, 2, 3]
    assert await chain.missing(wanted) == set()


async def test_a_blob_that_nobody_asked_for_first_is_put_everywhere() -> None:
    stores = [memory("a", DATA), memory("b")]
    await Chain(stores).put(DIGEST, len(DATA), io.BytesIO(DATA))
    assert [store.blobs for store in stores] == [{DIGEST: DATA}] * 2


async def test_a_list_is_published_in_every_store() -> None:
    stores = [memory("a"), memory("b")]
    await Chain(stores).put_list(NAME, iter([b"one", b"two"]))
    assert [store.published[NAME][0] for store in stores] == [b"onetwo"] * 2


@pytest.mark.parametrize("number", [0, 1])
async def test_a_store_that_takes_nothing_fails_the_whole_write(number: int) -> None:
    stores: list[Store] = [memory("a"), memory("b")]
    stores[number] = FailsAlways(stores[number])
    chain = Chain(stores)
    with pytest.raises(StoreTrouble, match="always fails"):
        await chain.missing({DIGEST: len(DATA)})
    with pytest.raises(StoreTrouble, match="always fails"):
        await chain.put(DIGEST, len(DATA), io.BytesIO(DATA))
    with pytest.raises(StoreTrouble, match="always fails"):
        await chain.put_many([BlobSource.of(DIGEST, DATA)])
    with pytest.raises(StoreTrouble, match="always fails"):
        await chain.put_list(NAME, [b"list"])


FAULTS = [Passes, FailsAlways, FailsOnce, FlipsLastByte, lambda store: Truncates(store, 3)]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(FAULTS)), min_size=1, max_size=4))
def test_a_good_copy_is_found_and_nothing_else_is_ever_given(
    members: list[tuple[bool, type[Passes]]],
) -> None:
    stores = [fault(memory(str(n), *[DATA] * has)) for n, (has, fault) in enumerate(members)]
    good = any(has and fault is Passes for has, fault in members)

    async def ask() -> None:
        chain = Chain(stores)
        for _ in range(2):
            try:
                assert await get(chain) == DATA
            except BlobMissing:
                assert not any(has for has, _ in members)
            except AysfsError:
                assert not good

    trio.run(ask)
