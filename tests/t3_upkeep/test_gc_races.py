"""A gc beside pushes: whatever happens between what, a list that was published is complete.

Everybody stops before each call to the store, and the test says who goes on: every place where
a gc can be begun, and can be cut in two, is tried, and then schedules at random. Blobs have no
grace period here, so only the protocol protects them.
"""

import contextlib
import io
import itertools
import tarfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import StoreTrouble
from aysfs.names import ServiceName, parse_name
from aysfs.pack import cut
from aysfs.publish import send
from aysfs.publish.image import sha256_of
from aysfs.publish.packs import add_packs
from aysfs.publish.push import push
from aysfs.publish.put import put_missing
from aysfs.publish.stream import TarTree, publish_list
from aysfs.store import claims
from aysfs.store.claims import Claim
from aysfs.store.directory import DirectoryStore
from aysfs.store.faults import _Gated
from aysfs.store.memory import MemoryStore
from aysfs.store.open import open_store
from aysfs.store.packs import blobs_of, read_index, read_packs
from aysfs.store.protocol import BlobSource, Store, Stored
from aysfs.store.ssh_address import SshCredentials
from aysfs.store.tree_image import read_image
from aysfs.upkeep.check import check
from aysfs.upkeep.copy import retag
from aysfs.upkeep.gc import gc
from tests.cancelling import threads_ended
from tests.servers import Sshd

NAME, OTHER = parse_name("a__b"), parse_name("c__d")
AT_ONCE = 10_000  # steps: to the end, or until it waits for somebody


class Turns(_Gated):
    """Each call waits until it is this actor's turn."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        self._memory = inner
        self._event: trio.Event | None = None
        self._one = trio.StrictFIFOLock()  # where an actor asks several things side by side
        self.ended = False

    @property
    def is_waiting(self) -> bool:
        return self._event is not None

    async def _enter(self, call: str, key: object) -> None:
        async with self._one:
            self._event = trio.Event()
            await self._event.wait()

    async def shelf(self, first: int) -> list[Stored]:
        """A shelf that is empty is no step: the schedules would be long and say nothing."""
        if any(digest[0] == first for digest in self._memory.blobs):
            return await super().shelf(first)
        return await self._memory.shelf(first)

    def go_on(self) -> None:
        assert self._event is not None
        self._event.set()
        self._event = None


Actor = tuple[Turns, Callable[[], Awaitable[object]]]
Plan = Sequence[tuple[int, int]]  # which actor, for how many steps


async def play(actors: Sequence[Actor], plan: Plan) -> int:
    """Let actors go on as planned, and then each to its end; how many steps were made."""
    steps = 0
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)

    async def run(turns: Turns, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        finally:
            turns.ended = True

    async with trio.open_nursery() as nursery:
        for turns, work in actors:
            nursery.start_soon(run, turns, work)
        last = [(number, AT_ONCE) for number in range(len(actors))]
        for number, count in itertools.chain(plan, itertools.cycle(last)):
            turns = actors[number][0]
            for _ in range(count):
                await everybody_waits()
                if not turns.is_waiting:
                    break
                turns.go_on()
                steps += 1
            await everybody_waits()
            if all(turns.ended for turns, _ in actors):
                break
            if not any(turns.is_waiting for turns, _ in actors):
                clock.jump(claims.POLL)  # all poll
    return steps


async def everybody_waits() -> None:
    """Return when nobody can go on: not a task, not a worker thread."""
    await trio.testing.wait_all_tasks_blocked()
    while trio.to_thread.current_default_thread_limiter().borrowed_tokens:
        await threads_ended()
        await trio.testing.wait_all_tasks_blocked()


def played(scene: Callable[[Plan], Awaitable[int]], plan: Plan) -> int:
    return trio.run(scene, plan, clock=trio.testing.MockClock())


def new_store() -> MemoryStore:
    return MemoryStore(clock_ns=lambda: 10**18 + int(trio.current_time() * 1e9))


async def is_complete(store: MemoryStore, *names: ServiceName) -> None:
    assert set(names) <= set(await store.lists())
    report = await check(store, deep=True)
    assert report.damage == []
    assert report.unreadable == {}
    assert all(name.endswith((".image", ".packs", ".profile")) for name in store.noted)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("tree")
    for number in range(4):
        (top / f"f{number}").write_bytes(b"%d" % number)
    return top


@pytest.fixture(scope="module")
def small_batches() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(send, "BATCH_FILES", 2)
        yield


def gc_of(turns: Turns) -> Callable[[], Awaitable[object]]:
    return partial(gc, turns, grace=-1, delete=True, settle=0, clock=trio.current_time)


def a_push_and_a_gc(tree: Path) -> Callable[[Plan], Awaitable[int]]:
    """Of what the push needs, some is there and nobody's, some is not there."""

    async def scene(plan: Plan) -> int:
        store = new_store()
        for data in (b"0", b"2", b"garbage"):
            store.add(data)
        pusher, sweeper = Turns(store), Turns(store)
        actors: list[Actor] = [
            (pusher, partial(push, tree, NAME, pusher)),
            (sweeper, gc_of(sweeper)),
        ]
        steps = await play(actors, plan)
        await is_complete(store, NAME)
        assert digests.of(b"garbage") not in store.blobs
        return steps

    return scene


def test_a_gc_between_any_two_steps_of_a_push(tree: Path, small_batches: None) -> None:
    total = played(a_push_and_a_gc(tree), [])
    for before in range(total + 1):
        played(a_push_and_a_gc(tree), [(0, before), (1, AT_ONCE)])


def test_a_push_between_any_two_steps_of_a_gc(tree: Path, small_batches: None) -> None:
    total = played(a_push_and_a_gc(tree), [])
    for before in range(total + 1):
        played(a_push_and_a_gc(tree), [(1, before), (0, AT_ONCE)])


def test_each_cut_in_two_anywhere(tree: Path, small_batches: None) -> None:
    for before in range(1, 16):
        for first in range(1, 18):
            played(a_push_and_a_gc(tree), [(0, before), (1, first), (0, AT_ONCE)])


def two_pushes_and_two_gcs(tree: Path) -> Callable[[Plan], Awaitable[int]]:
    """Two people push the same service, and two gcs run, one after the other or refused."""

    async def scene(plan: Plan) -> int:
        store = new_store()
        for data in (b"0", b"3", b"garbage"):
            store.add(data)
        turns = [Turns(store) for _ in range(4)]

        async def sweep(one: Turns) -> None:
            try:
                await gc_of(one)()
            except StoreTrouble as refusal:
                if "another gc" not in str(refusal):
                    raise

        actors: list[Actor] = [
            (turns[0], partial(push, tree, NAME, turns[0], base=b"/one", tag="1", image=True)),
            (turns[1], partial(push, tree, NAME, turns[1], base=b"/two", tag="2")),
            (turns[2], partial(sweep, turns[2])),
            (turns[3], partial(sweep, turns[3])),
        ]
        steps = await play(actors, plan)
        await is_complete(store, NAME, NAME._replace(tag="1"), NAME._replace(tag="2"))
        assert await has_image(store, NAME._replace(tag="1"))
        return steps

    return scene


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), max_size=30))
def test_any_schedule_of_pushes_and_gcs(tree: Path, small_batches: None, plan: Plan) -> None:
    played(two_pushes_and_two_gcs(tree), plan)


# --- images ------------------------------------------------------------------------------


async def has_image(store: MemoryStore, name: ServiceName) -> bool:
    """Whether the store has an image of this very list, both blobs and all."""
    found = await read_image(store, name)
    if found is None or sha256_of([store.published[name][0]]) != found.list_sha256:
        return False
    assert not await store.missing(found.blobs)
    return True


def every_cut(scene: Callable[[Plan], Awaitable[int]]) -> None:
    """Of two actors, each is cut in two at every place, and the other does all its work there."""
    total = played(scene, [])
    for before in range(total + 1):
        played(scene, [(0, before), (1, AT_ONCE)])
        played(scene, [(1, before), (0, AT_ONCE)])


def test_a_push_of_an_image_beside_a_gc(tree: Path, small_batches: None) -> None:
    """The blobs of the image are there already, and nobody's."""
    before = new_image_blobs(tree)

    async def scene(plan: Plan) -> int:
        store = new_store()
        for data in before:
            store.add(data)
        pusher, sweeper = Turns(store), Turns(store)
        actors: list[Actor] = [
            (pusher, partial(push, tree, NAME, pusher, base=b"/top", image=True)),
            (sweeper, gc_of(sweeper)),
        ]
        steps = await play(actors, plan)
        await is_complete(store, NAME)
        assert await has_image(store, NAME)
        return steps

    every_cut(scene)


def new_image_blobs(tree: Path) -> list[bytes]:
    async def blobs() -> list[bytes]:
        store = MemoryStore()
        await push(tree, NAME, store, base=b"/top", image=True)
        found = await read_image(store, NAME)
        assert found is not None
        return [store.blobs[digest] for digest in found.blobs]

    return trio.run(blobs)


@pytest.mark.parametrize("image", [False, True])
def test_a_list_that_comes_back_beside_a_gc(tree: Path, small_batches: None, image: bool) -> None:
    """The note of its image was left by a writer that knows nothing of images."""

    async def scene(plan: Plan) -> int:
        store = new_store()
        await push(tree, NAME, store, base=b"/old", image=True)
        left = store.noted["a__b.image"]
        await push(tree, NAME, store, base=b"/new")
        store.noted["a__b.image"] = left
        pusher, sweeper = Turns(store), Turns(store)
        actors: list[Actor] = [
            (pusher, partial(push, tree, NAME, pusher, base=b"/old", image=image)),
            (sweeper, gc_of(sweeper)),
        ]
        steps = await play(actors, plan)
        await is_complete(store, NAME)
        assert await has_image(store, NAME) or not image
        return steps

    every_cut(scene)


def test_a_tag_for_a_list_with_an_image_beside_a_gc(tree: Path, small_batches: None) -> None:
    """While the tag is made, the current list goes on to a newer one."""

    async def scene(plan: Plan) -> int:
        store = new_store()
        await push(tree, NAME, store, base=b"/old", image=True)
        tagger, sweeper = Turns(store), Turns(store)

        async def tag_and_go_on() -> None:
            await retag(tagger, NAME, NAME._replace(tag="1"))
            await push(tree, NAME, tagger, base=b"/new")

        steps = await play([(tagger, tag_and_go_on), (sweeper, gc_of(sweeper))], plan)
        await is_complete(store, NAME, NAME._replace(tag="1"))
        assert await has_image(store, NAME._replace(tag="1"))
        assert not await has_image(store, NAME)
        return steps

    every_cut(scene)


# --- packs -------------------------------------------------------------------------------


async def has_packs(store: MemoryStore, name: ServiceName) -> bool:
    """Whether the store has packs of this very list, the index and all of them."""
    found = await read_packs(store, name)
    if found is None or sha256_of([store.published[name][0]]) != found.list_sha256:
        return False
    index = await read_index(store, found)
    assert not await store.missing(blobs_of(found, index))
    return True


PROFILE = b"#profile 1\n#runs 1\n%s|1|0|1\n" % digests.of(b"3").hex().encode()


@pytest.fixture
def two_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tail packs of two blobs of the tree each."""
    monkeypatch.setattr(cut, "LEAST", 15)
    monkeypatch.setattr(cut, "MOST", 25)


async def with_profile() -> MemoryStore:
    store = new_store()
    await store.write_note("a__b.profile", PROFILE)
    return store


def test_a_push_of_packs_beside_a_gc(tree: Path, small_batches: None, two_packs: None) -> None:
    """The packs are there already, and nobody's."""

    async def blobs() -> dict[Digest, bytes]:
        store = await with_profile()
        await push(tree, NAME, store, base=b"/top", packs=True)
        assert len(store.blobs) == 4 + 1 + 3
        return store.blobs

    before = trio.run(blobs, clock=trio.testing.MockClock())

    async def scene(plan: Plan) -> int:
        store = await with_profile()
        store.blobs.update(before)
        pusher, sweeper = Turns(store), Turns(store)
        actors: list[Actor] = [
            (pusher, partial(push, tree, NAME, pusher, base=b"/top", packs=True)),
            (sweeper, gc_of(sweeper)),
        ]
        steps = await play(actors, plan)
        await is_complete(store, NAME)
        assert await has_packs(store, NAME)
        return steps

    every_cut(scene)


@pytest.mark.parametrize("packs", [False, True])
def test_a_list_with_packs_that_comes_back_beside_a_gc(
    tree: Path, small_batches: None, two_packs: None, packs: bool
) -> None:
    """The note of its packs was left by a writer that knows nothing of packs."""

    async def scene(plan: Plan) -> int:
        store = await with_profile()
        await push(tree, NAME, store, base=b"/old", packs=True)
        left = store.noted["a__b.packs"]
        await push(tree, NAME, store, base=b"/new")
        store.noted["a__b.packs"] = left
        pusher, sweeper = Turns(store), Turns(store)
        actors: list[Actor] = [
            (pusher, partial(push, tree, NAME, pusher, base=b"/old", packs=packs)),
            (sweeper, gc_of(sweeper)),
        ]
        steps = await play(actors, plan)
        await is_complete(store, NAME)
        assert await has_packs(store, NAME) or not packs
        return steps

    every_cut(scene)


def test_packs_for_a_list_that_is_there_beside_a_gc(
    tree: Path, small_batches: None, two_packs: None
) -> None:
    """Some of them are there from before, of a list that is gone."""

    async def scene(plan: Plan) -> int:
        store = await with_profile()
        await push(tree, NAME, store, base=b"/old", packs=True)
        left = store.noted["a__b.packs"]
        await push(tree, NAME, store, base=b"/new")
        store.noted["a__b.packs"] = left
        packer, sweeper = Turns(store), Turns(store)
        actors: list[Actor] = [
            (packer, partial(add_packs, packer, NAME)),
            (sweeper, gc_of(sweeper)),
        ]
        steps = await play(actors, plan)
        await is_complete(store, NAME)
        assert await has_packs(store, NAME)
        return steps

    every_cut(scene)


def test_a_tag_for_a_list_with_packs_beside_a_gc(
    tree: Path, small_batches: None, two_packs: None
) -> None:
    """While the tag is made, the current list goes on to a newer one."""

    async def scene(plan: Plan) -> int:
        store = await with_profile()
        await push(tree, NAME, store, base=b"/old", packs=True)
        tagger, sweeper = Turns(store), Turns(store)

        async def tag_and_go_on() -> None:
            await retag(tagger, NAME, NAME._replace(tag="1"))
            await push(tree, NAME, tagger, base=b"/new")

        steps = await play([(tagger, tag_and_go_on), (sweeper, gc_of(sweeper))], plan)
        await is_complete(store, NAME, NAME._replace(tag="1"))
        assert await has_packs(store, NAME._replace(tag="1"))
        assert not await has_packs(store, NAME)
        return steps

    every_cut(scene)


def tar_of(*files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        top = tarfile.TarInfo("top")
        top.type = tarfile.DIRTYPE
        archive.addfile(top)
        for number, data in enumerate(files):
            member = tarfile.TarInfo(f"top/f{number}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def test_a_build_that_streams_beside_a_gc() -> None:
    """As a build does it: a batch at a time, with time between, and a list at the end."""

    async def scene(plan: Plan) -> int:
        store = new_store()
        for data in (b"0", b"1", b"garbage"):
            store.add(data)
        builder, sweeper = Turns(store), Turns(store)

        async def build() -> None:
            claim = Claim(builder, clock=trio.current_time)
            blobs: list[BlobSource] = []
            tree = TarTree(blobs.extend)
            tree.add(io.BytesIO(tar_of(b"0", b"1", b"2")).read, b"/top")
            for blob in blobs:
                await put_missing([claim], [blob])
            await publish_list([claim], NAME, *tree.finish())
            await claim.aclose()

        steps = await play([(builder, build), (sweeper, gc_of(sweeper))], plan)
        await is_complete(store, NAME)
        return steps

    total = played(scene, [])
    for before in range(total + 1):
        played(scene, [(0, before), (1, AT_ONCE)])
        played(scene, [(1, before), (0, AT_ONCE)])


# --- real stores -------------------------------------------------------------------------


def over_ssh(root: Path, sshd: Sshd) -> Store:
    credentials = SshCredentials(sshd.key, sshd.known_hosts)
    return open_store(sshd.url(root), credentials=credentials)


@pytest.mark.parametrize("kind", ["directory", "ssh"])
async def test_a_gc_beside_pushes_over_a_real_store(
    tmp_path: Path, small_batches: None, sshd: Sshd, kind: str
) -> None:
    """Pushes and gcs one after the other, side by side: each has a store of its own."""
    root = tmp_path / "store"
    (root / "dedupe").mkdir(parents=True)
    trees = []
    for number in range(2):
        tree = tmp_path / f"tree{number}"
        tree.mkdir()
        trees.append(tree)
        for file in range(4):
            (tree / f"f{file}").write_bytes(b"shared %d" % (file * (1 + number)))
    stores = [DirectoryStore(root) if kind == "directory" else over_ssh(root, sshd) for _ in "123"]
    done = trio.Event()

    async def pushes(store: Store, tree: Path, name: ServiceName) -> None:
        for number in range(3):
            (tree / "changes").write_bytes(b"%d" % (number % 2))
            await push(tree, name, store)

    async def sweeps(store: Store) -> None:
        while not done.is_set():
            await gc(store, grace=-1, delete=True, settle=0)
            await trio.lowlevel.checkpoint()

    try:
        with patched_poll():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sweeps, stores[2])
                async with trio.open_nursery() as pushing:
                    pushing.start_soon(pushes, stores[0], trees[0], NAME)
                    pushing.start_soon(pushes, stores[1], trees[1], OTHER)
                done.set()
        report = await check(stores[0], deep=True)
        assert (len(report.lists), report.damage, report.unreadable) == (2, [], {})
        assert await stores[0].notes() == {}
    finally:
        for store in stores:
            await store.aclose()


@contextlib.contextmanager
def patched_poll() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "POLL", 0.01)
        yield
