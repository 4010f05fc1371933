"""A gc beside pushes: whatever happens between what, a list that was published is complete.

Every place where a gc can be begun, and can be cut in two, is tried, and then schedules at random.
"""

import contextlib
import io
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from aysfs import digest as digests
from aysfs.errors import StoreTrouble
from aysfs.names import ServiceName, parse_name
from aysfs.publish.push import push
from aysfs.publish.put import put_missing
from aysfs.publish.stream import TarTree, publish_list
from aysfs.store import claims
from aysfs.store.claims import Claim
from aysfs.store.directory import DirectoryStore
from aysfs.store.open import open_store
from aysfs.store.protocol import BlobSource, Store
from aysfs.store.ssh_address import SshCredentials
from aysfs.upkeep.check import check
from aysfs.upkeep.gc import gc
from tests.list_notes import IMAGE
from tests.servers import Sshd
from tests.t3_upkeep.noted import is_noted
from tests.t3_upkeep.turns import (
    AT_ONCE,
    Actor,
    Plan,
    Scene,
    Turns,
    beside_a_gc,
    every_cut,
    gc_of,
    is_complete,
    new_store,
    play,
    played,
)

NAME, OTHER = parse_name("a__b"), parse_name("c__d")


def a_push_and_a_gc(tree: Path) -> Scene:
    """Of what the push needs, some is there and nobody's, some is not there."""

    async def scene(plan: Plan) -> int:
        store = new_store()
        for data in (b"0", b"2", b"garbage"):
            store.add(data)
        steps = await beside_a_gc(store, plan, partial(push, tree, NAME))
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


def two_pushes_and_two_gcs(tree: Path) -> Scene:
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
        assert await is_noted(IMAGE, store, NAME._replace(tag="1"))
        return steps

    return scene


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), max_size=30))
def test_any_schedule_of_pushes_and_gcs(tree: Path, small_batches: None, plan: Plan) -> None:
    played(two_pushes_and_two_gcs(tree), plan)


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

        async def build(builder: Turns) -> None:
            claim = Claim(builder, clock=trio.current_time)
            blobs: list[BlobSource] = []
            tree = TarTree(blobs.extend)
            tree.add(io.BytesIO(tar_of(b"0", b"1", b"2")).read, b"/top")
            for blob in blobs:
                await put_missing([claim], [blob])
            await publish_list([claim], NAME, *tree.finish())
            await claim.aclose()

        steps = await beside_a_gc(store, plan, build)
        await is_complete(store, NAME)
        return steps

    every_cut(scene)


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
