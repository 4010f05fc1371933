"""Packs that are published tell what their blobs refer to, and guess what nobody has recorded."""

import io
import re
import tarfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
import trio

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.names import ServiceName, parse_name
from aysfs.pack import Columns, PackIndex
from aysfs.pack.cut import Blob
from aysfs.pack.index import Pack
from aysfs.publish.frames import Frames, FramesOfFiles, FramesOfStore, FrameSpool
from aysfs.publish.packs import add_packs
from aysfs.publish.push import push
from aysfs.publish.stream import TarTree, publish_list
from aysfs.publish.walk import TreeChanged
from aysfs.store.claims import Claim
from aysfs.store.memory import MemoryStore
from aysfs.store.packs import keep_packs, published, read_index, read_packs
from aysfs.store.protocol import BlobSource, Sink
from aysfs.upkeep.check import check
from aysfs.upkeep.copy import copy, retag
from aysfs.upkeep.gc import gc
from tests.cancelling import Cut, at_every_await, threads_ended

NAME, OTHER = parse_name("a__b"), parse_name("c__d")
MODULES = {
    "lib/app/__init__.py": "import app.first\nfrom . import second\n",
    "lib/app/first.py": "def f():\n    import app.never\n",
    "lib/app/second.py": "from app.third import (\n    name,\n)\n",
    "lib/app/third.py": "import app.second, app  # in a circle\n",
    "lib/app/never.py": "name = 1\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A package of Python."""
    top = tmp_path / "tree"
    for name, text in MODULES.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    (top / "lib/app/data").write_bytes(b"import app.never\n")
    return top


@pytest.fixture
def program(tree: Path) -> tuple[Path, Path, Path]:
    """A real program in the tree, its library and its loader, beside the modules."""
    (tree / "bin").mkdir()
    libc, loader = mapped("libc.so"), mapped("ld-linux")
    copies = tree / "bin/true", tree / "lib" / libc.name, tree / "lib" / loader.name
    for source, target in zip((Path("/bin/true"), libc, loader), copies, strict=True):
        target.write_bytes(source.read_bytes())
        target.chmod(0o755)
    return copies


def mapped(name: str) -> Path:
    """A library of this process."""
    found = re.search(rf"/\S*/{re.escape(name)}[^/\n]*$", Path("/proc/self/maps").read_text(), re.M)
    assert found is not None
    return Path(found[0])


async def index_in(store: MemoryStore, name: ServiceName = NAME) -> PackIndex:
    found = await read_packs(store, name)
    assert found is not None
    return await read_index(store, found)


def digest_of(path: Path) -> Digest:
    return digests.of(path.read_bytes())


def referred(index: PackIndex, path: Path) -> list[Digest]:
    """What an index says that a file refers to."""
    at = index.find(digest_of(path))
    assert at is not None
    return [index.digest(one) for one in index.references(at)]


def all_of(index: PackIndex) -> dict[Digest, list[Digest]]:
    return {
        index.digest(at): [index.digest(one) for one in index.references(at)]
        for at in range(len(index))
    }


def modules(tree: Path, *names: str) -> list[Digest]:
    return [digest_of(tree / "lib/app" / f"{name}.py") for name in names]


async def test_a_module_refers_to_what_it_imports_in_its_order(tree: Path) -> None:
    store = MemoryStore()
    await push(tree, NAME, store, packs=True)
    index = await index_in(store)
    assert index.has_references
    app = tree / "lib/app"
    assert referred(index, app / "__init__.py") == modules(tree, "first", "second")
    assert modules(tree, "third")[0] in referred(index, app / "second.py")
    assert referred(index, app / "first.py") == []
    assert referred(index, app / "data") == []
    assert not index.has_start
    assert (await check(store, deep=True)).damage == []


async def test_a_program_refers_to_its_library_and_loader(
    tree: Path, program: tuple[Path, Path, Path]
) -> None:
    store = MemoryStore()
    await push(tree, NAME, store, packs=True)
    true, libc, loader = map(digest_of, program)
    assert set(referred(await index_in(store), program[0])) == {libc, loader}
    assert true not in referred(await index_in(store), program[1])


async def test_without_a_profile_programs_and_libraries_are_the_start_pack(
    tree: Path, program: tuple[Path, Path, Path]
) -> None:
    store = MemoryStore()
    report = await push(tree, NAME, store, packs=True)
    assert report.packs is not None
    assert report.packs.start == 3
    assert "3 of them in the start pack" in report.packs.text
    index = await index_in(store)
    assert index.has_start
    first = [index.digest(at) for at in range(index.packs[0].count)]
    assert first[0] == digest_of(program[0])
    assert set(first) == set(map(digest_of, program))


async def test_with_a_profile_nothing_is_guessed(
    tree: Path, program: tuple[Path, Path, Path]
) -> None:
    store = MemoryStore()
    await store.write_note("a__b.profile", profile_of(tree / "lib/app/never.py"))
    report = await push(tree, NAME, store, packs=True)
    assert report.packs is not None
    assert report.packs.start == 1
    assert (await index_in(store)).digest(0) == digest_of(tree / "lib/app/never.py")


def profile_of(path: Path) -> bytes:
    line = f"{digest_of(path).hex()}|{path.stat().st_size}|1|1"
    return f"#profile 1\n#runs 1\n{line}\n".encode()


class Asked(FramesOfFiles):
    """Counts the blobs that were read, whatever for."""

    count = 0

    async def frames(self, blobs: Sequence[Blob]) -> list[bytes]:
        Asked.count += len(blobs)
        return await super().frames(blobs)

    async def contents(self, blobs: Sequence[Blob]) -> list[bytes]:
        Asked.count += len(blobs)
        return await super().contents(blobs)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> type[Asked]:
    monkeypatch.setattr("aysfs.publish.push.FramesOfFiles", Asked)
    Asked.count = 0
    return Asked


async def test_a_push_of_the_same_tree_reads_nothing_and_tells_the_same(
    tree: Path, program: tuple[Path, Path, Path], asked: type[Asked]
) -> None:
    store = MemoryStore()
    await push(tree, NAME, store, packs=True)
    before, notes, asked.count = dict(store.blobs), dict(store.noted), 0
    report = await push(tree, NAME, store, packs=True)
    assert report.packs is not None
    assert (asked.count, report.packs.sent, report.packs.start) == (0, 0, 3)
    assert (store.blobs, store.noted) == (before, notes)


async def test_a_changed_module_is_looked_at_again(tree: Path) -> None:
    store = MemoryStore()
    await push(tree, NAME, store, packs=True)
    (tree / "lib/app/first.py").write_text("import app.never\n")
    await push(tree, NAME, store, packs=True)
    index = await index_in(store)
    assert modules(tree, "never")[0] in referred(index, tree / "lib/app/first.py")


class Counts(MemoryStore):
    """Counts how often each blob was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[Digest] = []

    async def get(self, digest: Digest, size: int, sink: Sink) -> None:
        self.got.append(digest)
        await super().get(digest, size, sink)


async def test_a_new_profile_moves_blobs_and_leaves_their_references(
    tree: Path, program: tuple[Path, Path, Path]
) -> None:
    store = Counts()
    await push(tree, NAME, store, packs=True)
    before = all_of(await index_in(store))
    await store.write_note("a__b.profile", profile_of(tree / "lib/app/third.py"))
    store.got.clear()
    report = await add_packs(store, NAME)
    assert report.start == 1
    index = await index_in(store)
    assert index.digest(0) == digest_of(tree / "lib/app/third.py")
    assert all_of(index) == before
    assert len(store.got) == len(set(store.got))


async def test_what_is_in_a_store_is_told_of_as_after_a_push(
    tree: Path, program: tuple[Path, Path, Path]
) -> None:
    pushed, store = MemoryStore(), Counts()
    await push(tree, NAME, pushed, packs=True)
    await push(tree, NAME, store)
    await add_packs(store, NAME)
    assert await read_packs(store, NAME) == await read_packs(pushed, NAME)
    assert store.blobs == pushed.blobs
    assert len(store.got) == len(set(store.got)), "a blob came over the network twice"


async def test_packs_without_references_get_them_and_stay_as_they_are(tree: Path) -> None:
    """As an earlier version has published them."""
    store = MemoryStore()
    await push(tree, NAME, store, packs=True)
    found, index = await read_packs(store, NAME), await index_in(store)
    assert found is not None
    old, data = published(found.list_sha256, PackIndex(index.packs, whole(index), has_start=False))
    store.add(data)
    async with Claim(store) as claim:
        await keep_packs(claim, NAME, found.list_sha256, old)
    assert not (await index_in(store)).has_references
    report = await push(tree, NAME, store, packs=True)
    assert report.packs is not None
    assert report.packs.sent == 0
    assert await read_packs(store, NAME) == found


def whole(index: PackIndex) -> Columns:
    found = Columns()
    for one in index.packs:
        found.extend(index.blobs_of(one))
    return found


async def test_anew_looks_at_all_blobs_again(tree: Path) -> None:
    store = MemoryStore()
    await push(tree, NAME, store, packs=True)
    found, index = await read_packs(store, NAME), await index_in(store)
    assert found is not None
    none = PackIndex.join(
        [Pack(one.digest, one.size, index.blobs_of(one)) for one in index.packs],
        has_start=False,
        references={},
    )
    wrong, data = published(found.list_sha256, none)
    store.add(data)
    async with Claim(store) as claim:
        await keep_packs(claim, NAME, found.list_sha256, wrong)
    await add_packs(store, NAME)
    assert await read_packs(store, NAME) == wrong
    await add_packs(store, NAME, anew=True)
    assert await read_packs(store, NAME) == found


async def test_a_module_that_changes_before_it_is_looked_at_is_told(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Meddler(FramesOfFiles):
        async def contents(self, blobs: Sequence[Blob]) -> list[bytes]:
            (tree / "lib/app/first.py").write_text("import app.third\n")
            return await super().contents(blobs)

    monkeypatch.setattr("aysfs.publish.push.FramesOfFiles", Meddler)
    store = MemoryStore()
    with pytest.raises(TreeChanged, match="changed while it was pushed"):
        await push(tree, NAME, store, packs=True)
    assert store.published == {}


async def test_reading_is_told_of(tree: Path) -> None:
    told: list[tuple[str, int, int]] = []
    await push(tree, NAME, MemoryStore(), packs=True, step=lambda *step: told.append(step))
    size = sum(len(text) for text in MODULES.values())
    assert ("references", size, size) in told


async def test_tag_copy_and_gc_keep_references(tree: Path) -> None:
    store, target = MemoryStore(), MemoryStore()
    await push(tree, NAME, store, tag="1", packs=True)
    expected = all_of(await index_in(store))
    assert any(expected.values())
    await retag(store, NAME, NAME._replace(tag="2"))
    await gc(store, grace=-1, delete=True, settle=0)
    await copy(store, target, [NAME])
    for one in (store, target):
        assert all_of(await index_in(one)) == expected
    for tag in ("1", "2"):
        assert all_of(await index_in(store, NAME._replace(tag=tag))) == expected


async def test_packing_what_is_in_a_store_can_be_cut_anywhere(tree: Path, no_leaks: None) -> None:
    """There are packs that are whole, or none; and no file and no thread is left."""
    notes = set()
    pushed = MemoryStore()
    await push(tree, NAME, pushed)

    async def attempt(cut_here: Cut) -> None:
        store = MemoryStore()
        store.blobs.update(pushed.blobs)
        await store.put_list(NAME, [pushed.published[NAME][0]])
        await cut_here.during(lambda: add_packs(store, NAME))
        await threads_ended()
        packed = await read_packs(store, NAME)
        notes.add(packed is not None)
        if packed is not None:
            assert (await check(store, deep=True)).damage == []

    assert await at_every_await(attempt) > 20
    assert notes == {False, True}


# --- where contents come from ------------------------------------------------------------


async def test_every_source_gives_the_contents_of_its_blobs(tree: Path, no_leaks: None) -> None:
    store = MemoryStore()
    await push(tree, NAME, store)
    data = [text.encode() for text in MODULES.values()]
    asked_for = [(digests.of(one), len(one)) for one in data]
    with FrameSpool() as spool, closing(FramesOfStore(store)) as kept:
        spool.take([BlobSource.of(digests.of(one), one) for one in data])
        sources: list[Frames] = [spool, kept]
        for source in sources:
            for blobs in (asked_for, asked_for[::-1], []):
                assert await source.contents(blobs) == [store.blobs[one] for one, _ in blobs]
        assert await kept.frames(asked_for) == await spool.frames(asked_for)


async def test_a_build_publishes_the_references_that_a_push_does(tree: Path) -> None:
    pushed, store = MemoryStore(), MemoryStore()
    await push(tree, NAME, pushed, base=b"/tree", packs=True)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(tree, "tree")
    archive.seek(0)
    async with Claim(store) as claim:
        with FrameSpool() as spool:

            def put(sources: list[BlobSource]) -> None:
                spool.take(sources)
                trio.from_thread.run(store.put_many, sources)

            made = TarTree(put)
            await trio.to_thread.run_sync(made.add, archive.read, b"/tree")
            header, entries = made.finish()
            await publish_list([claim], NAME, header, entries, frames=spool)
    assert all_of(await index_in(store)) == all_of(await index_in(pushed))
