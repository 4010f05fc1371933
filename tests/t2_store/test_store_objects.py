"""Buckets: what can be the matter with them, and with the way to them."""

import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from aysfs import digest as digests
from aysfs.errors import BadConfig, BlobMissing, Corrupt, ListMissing, NoteMissing, StoreTrouble
from aysfs.store import layout
from aysfs.store.objects import ObjectsStore
from aysfs.store.objects_address import parse_object_address
from aysfs.store.objects_bucket import PART, Bounds, Bucket
from aysfs.store.protocol import BlobSource, Held
from tests.servers import HANG, ScriptedServer, free_port
from tests.swift import Swift
from tests.t2_store.buckets import (
    DIGEST,
    LARGE,
    NAME,
    NUMBERS,
    READING,
    SMALL,
    WRITING,
    Question,
    asked,
    get,
    judge,
    opened,
    put,
)

pytestmark = pytest.mark.usefixtures("no_connections")


@pytest.fixture
def bucket(s3: Swift) -> str:
    return s3.bucket(f"bucket-{next(NUMBERS)}")


@pytest.fixture
def mortal(s3: Swift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Swift]:
    """A server of the test's own, to be killed."""
    with Swift(tmp_path / "swift") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


def uploads(swift: Swift, bucket: str) -> int:
    """How many uploads in parts are under way."""
    status, body = swift.request("GET", f"/{bucket.removeprefix('s3://')}?uploads=")
    assert status == 200
    return body.count(b"<UploadId>")


# --- never "not there" -------------------------------------------------------------------


@asked
async def test_a_wrong_secret_is_trouble(
    bucket: str, ask: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    async with opened(bucket) as store:
        with pytest.raises(StoreTrouble, match="answered 403") as caught:
            await ask(store)
    judge(caught.value, bucket, "credentials" if "Does" not in str(caught.value) else "secret")


@asked
async def test_a_bucket_that_is_not_there_is_trouble(s3: Swift, ask: Question) -> None:
    async with opened("s3://not-there/prefix") as store:
        with pytest.raises(StoreTrouble) as caught:
            await ask(store)
    judge(caught.value, "NoSuchBucket", "make the bucket first", "s3://not-there/prefix")


@asked
async def test_an_endpoint_that_refuses_is_trouble(
    s3: Swift, ask: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    async with opened("s3://bucket") as store:
        with pytest.raises(StoreTrouble, match=r"(?i)connection refused") as caught:
            await ask(store)
    judge(caught.value, f"s3://bucket at 127.0.0.1:{port}")


@pytest.mark.parametrize(
    "ask", [READING["get"], READING["missing"], WRITING["put_large"]], ids=["get", "missing", "put"]
)
async def test_an_endpoint_that_never_answers_is_trouble(
    s3: Swift, ask: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedServer([HANG]) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        async with opened("s3://bucket") as store:
            with pytest.raises(StoreTrouble, match=r"no answer (in time|within)") as caught:
                await ask(store)
    judge(caught.value)


async def test_a_name_that_nobody_knows_is_trouble(s3: Swift) -> None:
    async with opened("s3://bucket?endpoint=http://no-such-host.invalid") as store:
        with pytest.raises(StoreTrouble, match="cannot be resolved"):
            await store.lists()


async def test_what_is_not_there_is_missing(bucket: str) -> None:
    async with opened(f"{bucket}/deep/prefix") as store:
        with pytest.raises(BlobMissing):
            await get(store, SMALL)
        with pytest.raises(ListMissing):
            await store.open_list(NAME)
        with pytest.raises(ListMissing):
            await store.delete_list(NAME)
        with pytest.raises(NoteMissing):
            await store.read_note("a")


async def test_without_credentials_it_is_said_where_they_go(
    s3: Swift, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    async with opened("s3://bucket") as store:
        with pytest.raises(StoreTrouble, match="no credentials were found") as caught:
            await store.lists()
    judge(caught.value, "docs/object-store.md")


# --- half of something -------------------------------------------------------------------


class Watched(io.BytesIO):
    """A source that does something once so many bytes have been read."""

    def __init__(self, data: bytes, after: int, act: Callable[[], None]) -> None:
        super().__init__(data)
        self._after = after
        self._act = act

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= self._after:
            self._after = len(self.getvalue()) + 1
            self._act()
        return super().read(size)


async def test_wrong_bytes_abort_an_upload_in_parts(s3: Swift, bucket: str) -> None:
    seen: list[int] = []
    source = Watched(LARGE, len(LARGE), lambda: seen.append(uploads(s3, bucket)))
    async with opened(bucket) as store:
        with pytest.raises(Corrupt, match="have md5"):
            await store.put(DIGEST, len(LARGE), source)
        assert seen == [1]
        assert uploads(s3, bucket) == 0
        assert await store.missing({DIGEST: len(LARGE)}) == {DIGEST}


async def test_a_source_that_fails_aborts_an_upload_and_is_not_the_stores_trouble(
    s3: Swift, bucket: str
) -> None:
    def fail() -> None:
        raise FileNotFoundError("the source is gone")

    async with opened(bucket) as store:
        with pytest.raises(FileNotFoundError, match="the source is gone"):
            await store.put(digests.of(LARGE), len(LARGE), Watched(LARGE, 2 * PART, fail))
        assert uploads(s3, bucket) == 0


async def test_a_cancelled_put_aborts_its_upload(s3: Swift, bucket: str) -> None:
    token = trio.lowlevel.current_trio_token()
    cancelled = trio.Event()
    source = Watched(LARGE, 2 * PART, lambda: trio.from_thread.run(cancel, trio_token=token))

    async def cancel() -> None:
        scope.cancel()
        await cancelled.wait()

    async with opened(bucket) as store:
        with trio.CancelScope() as scope:
            await store.put(digests.of(LARGE), len(LARGE), source)
        assert scope.cancelled_caught
        assert uploads(s3, bucket) == 1
        cancelled.set()
        while uploads(s3, bucket):  # the test has a minute
            await trio.lowlevel.checkpoint()
        assert await store.missing({digests.of(LARGE): len(LARGE)})


async def test_a_server_that_dies_during_a_get_is_trouble(mortal: Swift) -> None:
    class Kills(Held):
        def write(self, data: object, /) -> int:
            if not self.tell():
                mortal.stop("proxy")
            return super().write(data)  # type: ignore[arg-type]  # a buffer, as stores give

    async with opened(mortal.bucket("bucket")) as store:
        digest = await put(store, LARGE)
        with pytest.raises(StoreTrouble):
            await store.get(digest, len(LARGE), Kills())
        mortal.start_again("proxy")
        assert await get(store, LARGE) == LARGE


async def test_a_server_that_dies_during_an_upload_shows_nothing_of_it(mortal: Swift) -> None:
    digest = digests.of(LARGE)
    dies = Watched(LARGE, 2 * PART, lambda: mortal.stop("proxy"))
    async with opened(mortal.bucket("bucket")) as store:
        with pytest.raises(StoreTrouble):
            await store.put(digest, len(LARGE), dies)
        mortal.start_again("proxy")
        assert await store.missing({digest: len(LARGE)}) == {digest}
        assert await store.shelf(digest[0]) == []
        assert await put(store, LARGE) == digest
        assert await get(store, LARGE) == LARGE


async def test_two_pushes_of_the_same_at_once_do_no_harm(bucket: str) -> None:
    sources = [BlobSource.of(digests.of(one), one) for one in (b"%d" % n for n in range(40))]

    async def push() -> None:
        async with opened(bucket, Bounds()) as store:
            await store.put_many(sources)
            await put(store, LARGE)
            await store.put_list(NAME, [b"list"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(push)
        nursery.start_soon(push)
    async with opened(bucket) as store:
        assert await store.missing({one.digest: one.size for one in sources}) == set()
        assert await get(store, LARGE) == LARGE
        assert await store.lists() == [NAME]


@pytest.mark.parametrize("data", [b"the same of both", LARGE], ids=["small", "in parts"])
async def test_a_write_that_a_newer_one_overtook_is_a_write(
    s3: Swift, bucket: str, data: bytes
) -> None:
    # Swift answers it with 202 and no ETag: what two pushes of the same at once may see.
    s3.overtake(bucket, layout.blob("dedupe", digests.of(data)), data)
    async with opened(bucket, Bounds()) as store:
        await store.put_many([BlobSource.of(digests.of(data), data)])
        assert await get(store, data) == data


async def test_a_list_of_any_size_appears_at_once(s3: Swift, bucket: str) -> None:
    async with opened(bucket) as store:
        await store.put_list(NAME, [b"first"])

        def chunks() -> Iterator[bytes]:
            yield LARGE
            raise RuntimeError("no more")

        with pytest.raises(RuntimeError, match="no more"):
            await store.put_list(NAME, chunks())
        with (await store.open_list(NAME)).file as file:
            assert file.read() == b"first"
        await store.put_list(NAME, [LARGE])
        with (await store.open_list(NAME)).file as file:
            assert file.read() == LARGE
    assert uploads(s3, bucket) == 0


# --- what lies in a bucket ---------------------------------------------------------------


async def test_the_old_layout_is_read_and_deleted(bucket: str) -> None:
    name = DIGEST.hex()
    old = Bucket(parse_object_address(f"{bucket}/p"))
    await trio.to_thread.run_sync(old.put, f"dedupe/files/{name[0]}/{name[1]}/{name}", SMALL)
    async with opened(f"{bucket}/p") as store:
        assert await get(store, SMALL) == SMALL
        assert await store.missing({DIGEST: 5, digests.of(b"x"): 1}) == {digests.of(b"x")}
        assert [one.digest for one in await store.shelf(DIGEST[0])] == [DIGEST]
        await store.delete([DIGEST])
        assert await store.shelf(DIGEST[0]) == []


@pytest.mark.parametrize("page", [1000, 2])
async def test_many_blobs_of_one_shelf_are_found_whatever_lies_beside_them(
    bucket: str, page: int
) -> None:
    numbers = (b"%d" % number for number in itertools.count())
    same = [one for one in itertools.islice(numbers, 8000) if digests.of(one)[0] == 7]
    sources = [BlobSource.of(digests.of(one), one) for one in same]
    kept, absent = sources[::2], sources[1::2]
    async with opened(bucket, Bounds()) as store:
        store._bucket.page = page
        await store.put_many(kept)
        wanted = {one.digest: one.size for one in sources}
        assert await store.missing(wanted) == {one.digest for one in absent}
        wrong = {one.digest: one.size + 1 for one in kept}
        assert await store.missing(wrong) == set(wrong)


async def test_what_others_left_is_a_stray(bucket: str) -> None:
    foreign = Bucket(parse_object_address(bucket))
    temporary = ".x.0123456789ab0.tmp"
    for path in ("README", temporary, "md/Foreign", "md/.gc", "md/a__b.flist", "7/7/other"):
        await trio.to_thread.run_sync(foreign.put, f"dedupe/{path}", b"x")
    async with opened(bucket) as store:
        strays = {one.path: one.size for one in await store.strays()}
        assert strays == {"README": 1, temporary: 1, "md/Foreign": 1}
        await store.delete_strays([temporary])
        assert {one.path for one in await store.strays()} == {"README", "md/Foreign"}
        assert await store.shelf(0x77) == []


async def test_stores_of_one_bucket_do_not_see_each_other(bucket: str) -> None:
    async with opened(f"{bucket}/a") as one, opened(f"{bucket}/ab") as other:
        await put(one, SMALL)
        await one.put_list(NAME, [b"x"])
        assert await other.missing({DIGEST: 5}) == {DIGEST}
        assert await other.lists() == []


def test_options_that_obstore_refuses_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", "geheim")
    with pytest.raises(BadConfig) as caught:
        ObjectsStore(parse_object_address("gs://bucket"))
    assert "geheim" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("ask", [READING["get"], READING["lists"]], ids=["get", "lists"])
async def test_a_store_that_was_closed_says_so(bucket: str, ask: Question) -> None:
    async with opened(bucket) as store:
        pass
    with pytest.raises(StoreTrouble, match="the store was closed"):
        await ask(store)
