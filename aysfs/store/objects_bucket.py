"""One bucket of an object store, called from worker threads.

Serves the object store; owns obstore's clients and their bounds. Every call either does what it
says, or raises NotThereError where the store said so of a bucket that is there, or StoreTrouble. A
store's "404" alone is not enough: it also says that of objects in a bucket that does not exist.
"""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import obstore
from obstore.store import AzureStore, GCSStore, S3Store

from aysfs import __version__
from aysfs.errors import BadConfig, NoRanges, StoreTrouble
from aysfs.store.http_request import NotThereError, wrong_size
from aysfs.store.objects_address import AZURE, GCS, S3, ObjectAddress
from aysfs.store.objects_config import Configured, configure, host_of
from aysfs.store.objects_trouble import (
    ERRORS,
    is_not_there,
    is_overtaken,
    is_without_ranges,
    trouble,
    understand,
)

QUICK = 1 << 20  # up to so many bytes a request has to end within Bounds.quick
PAGE = 1000  # objects in one answer to a listing
PART = 8 << 20  # of an upload in parts
MOST_PARTS = 10_000
PARTS_AT_ONCE = 4
SIGNED = timedelta(hours=12)  # what a large blob may take, with all its tries
DELETED = 100  # in one request: a thousand take a slow server longer than Bounds.idle
_UNSATISFIABLE = 416  # a range behind the end of the object
_DELETING = 8  # such requests side by side


Client = AzureStore | GCSStore | S3Store


class Bounds(NamedTuple):
    """Seconds, and how often what failed is tried again."""

    connect: float = 10.0
    idle: float = 30.0  # without a byte
    quick: float = 60.0  # a request about little
    whole: float = 3600.0  # a request about a large blob, or a part of it
    tries: int = 3  # after the first one
    trying: float = 40.0  # no try begins later than this


class Found(NamedTuple):
    """An object as a listing or an answer describes it; ``path`` is below the store's prefix."""

    path: str
    size: int
    mtime_ns: int


class Below(NamedTuple):
    """What lies directly below a path."""

    objects: list[Found]
    folders: set[str]  # the last parts of their names


class Bucket:
    """Objects below a prefix. All methods block: they are for threads."""

    def __init__(self, address: ObjectAddress, bounds: Bounds | None = None) -> None:
        self.label = str(address)
        self.page = PAGE
        self._address = address
        configured, bounds = configure(address), bounds or Bounds()
        self.is_plain, self.may_sign = configured.is_plain, configured.may_sign
        host = host_of(configured)
        self._where = self.label if host is None else f"{self.label} at {host}"
        self._clients: list[Client] = [
            self._client(configured, bounds, bounds.quick),
            self._client(configured, bounds, bounds.whole),
        ]

    def close(self) -> None:
        """Let the clients go, and their connections with them."""
        self._clients.clear()

    @property
    def _quick(self) -> Client:
        return self._open()[0]

    @property
    def _long(self) -> Client:
        return self._open()[1]

    def _open(self) -> list[Client]:
        if not self._clients:
            raise StoreTrouble(f"{self.label}: the store was closed")
        return self._clients

    def read(
        self, path: str, expected: int, part: tuple[int, int] | None = None
    ) -> tuple[Found, Iterator[memoryview]]:
        """An object and its bytes in order, read with patience for so many of them.

        With ``part`` only those from the first number up to the second; NoRanges where the store
        gives only all of them.
        """
        count = part[1] - part[0] if part else expected
        client = self._quick if count <= QUICK else self._long
        options: Any = {"range": part} if part else {}
        with self._asking(path):
            try:
                result = obstore.get(client, path, options=options)
            except ERRORS as error:
                if part:
                    self._refuses_part(path, expected, error)
                raise
            found = _found(result.meta)
        return found, self._pieces(path, count if part else found.size, result)

    def sign(self, path: str) -> str:
        """A URL that whoever has it may read the object by: quick, where ``may_sign``."""
        try:
            return obstore.sign(self._quick, "GET", path, SIGNED)
        except ERRORS as error:
            raise self._trouble(path, error) from error

    def explain(self, path: str) -> StoreTrouble | None:
        """What is the matter with reading an object, in the store's own words."""
        try:
            obstore.get(self._quick, path)
        except ERRORS as error:
            return self._trouble(path, error)
        return None

    def head(self, path: str) -> Found | None:
        """What is there under this path, without asking whether the bucket is."""
        try:
            return _found(obstore.head(self._quick, path))
        except ERRORS as error:
            if is_not_there(error):
                return None
            raise self._trouble(path, error) from error

    def check_size(self, path: str, size: int) -> None:
        """OtherSize for an object that has another one."""
        found = self.head(path)
        if found is not None and found.size != size:
            raise wrong_size(self.at(path), found.size, size)

    def put(self, path: str, data: bytes) -> None:
        """Keep an object in one request: it is there whole, or as it was."""
        client = self._quick if len(data) <= QUICK else self._long
        try:
            obstore.put(client, path, data, use_multipart=False)
        except ERRORS as error:
            self._unless_overtaken(path, error)

    def put_parts(self, path: str, size: int, pieces: Iterator[bytes]) -> None:
        """Keep a large object, part by part: it appears when ``pieces`` have ended well.

        An exception of ``pieces`` aborts the upload and passes through.
        """
        own: list[Exception] = []

        def watched() -> Iterator[bytes]:
            try:
                yield from pieces
            except Exception as error:
                own.append(error)
                raise

        part = max(PART, -(-size // (MOST_PARTS - 1)))
        try:
            obstore.put(
                self._long, path, watched(), chunk_size=part, max_concurrency=PARTS_AT_ONCE,
                use_multipart=True,
            )  # fmt: skip
        except Exception as error:
            if own:
                raise own[0] from None
            if not isinstance(error, ERRORS):
                raise
            self._unless_overtaken(path, error)

    def list(self, path: str) -> Iterator[list[Found]]:
        """All objects below a path, in pages."""
        try:
            for page in obstore.list(self._quick, path, chunk_size=self.page):
                yield [_found(one) for one in page]
        except ERRORS as error:
            raise self._trouble(path, error) from error

    def below(self, path: str) -> Below:
        """What lies directly below a path. StoreTrouble where there is no bucket."""
        try:
            result = obstore.list_with_delimiter(self._quick, path)
        except ERRORS as error:
            raise self._trouble(path, error) from error
        folders = {one.rstrip("/").rpartition("/")[2] for one in result["common_prefixes"]}
        return Below([_found(one) for one in result["objects"]], folders)

    def delete(self, paths: Sequence[str]) -> None:
        """Have no such objects, whether or not there were."""
        # S3 takes up to a thousand at once, and says of absent ones that they are deleted.
        many = DELETED if self._address.scheme == S3 else 1
        groups = [paths[start : start + many] for start in range(0, len(paths), many)]
        with ThreadPoolExecutor(_DELETING) as pool:
            absent = [group[0] for group, was in pool.map(self._delete_some, groups) if not was]
        if absent:
            self.below(absent[0].rpartition("/")[0])  # raises where there is no bucket

    def _delete_some(self, paths: Sequence[str]) -> tuple[Sequence[str], bool]:
        """Delete them; False when the store said that there is none, or no bucket."""
        try:
            obstore.delete(self._quick, list(paths))
        except ERRORS as error:
            if not is_not_there(error):
                raise self._trouble(paths[0], error) from error
            return paths, False
        return paths, True

    def _pieces(self, path: str, size: int, result: Any) -> Iterator[memoryview]:
        done = 0
        stream = iter(result.stream(min_chunk_size=min(QUICK, max(size, 1))))
        while True:
            try:
                piece = next(stream, None)
            except ERRORS as error:
                raise self._trouble(path, error) from error
            if piece is None:
                break
            done += len(piece)
            yield memoryview(piece)
        if done != size:
            raise StoreTrouble(f"{self.at(path)}: {done} bytes came of {size}")

    def at(self, path: str) -> str:
        """How messages name an object."""
        return f"{self._where}, {path}"

    def _trouble(self, path: str, error: Exception) -> StoreTrouble:
        return trouble(self.at(path), error)

    def _refuses_part(self, path: str, size: int, error: Exception) -> None:
        """Raise what it means when it is only the part of an object of this size."""
        if understand(error).status == _UNSATISFIABLE:
            self.check_size(path, size)
        elif not is_without_ranges(error):
            return
        raise NoRanges(f"{self.at(path)}: the store gives only all of it") from error

    @contextlib.contextmanager
    def _asking(self, path: str) -> Iterator[None]:
        try:
            yield
        except ERRORS as error:
            if not is_not_there(error):
                raise self._trouble(path, error) from error
        else:
            return
        self.below(path.rpartition("/")[0])  # raises where there is no bucket
        raise NotThereError(path)

    def _unless_overtaken(self, path: str, error: Exception) -> None:
        if not (is_overtaken(error) and self.head(path) is not None):
            raise self._trouble(path, error) from error

    def _client(self, configured: Configured, bounds: Bounds, timeout: float) -> Client:
        options: dict[str, Any] = {
            "allow_http": configured.is_plain,
            "connect_timeout": timedelta(seconds=bounds.connect),
            "read_timeout": timedelta(seconds=bounds.idle),
            "timeout": timedelta(seconds=timeout),
            "user_agent": f"aysfs/{__version__}",
        }
        if configured.authorities is not None:
            options["root_certificate"] = configured.authorities
        made: dict[str, Any] = {
            "config": configured.options,
            "client_options": options,
            "retry_config": {
                "max_retries": bounds.tries,
                "retry_timeout": timedelta(seconds=bounds.trying),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=5),
                    "base": 2,
                },
            },
            "prefix": self._address.prefix or None,
        }
        try:
            client: Client = _KINDS[self._address.scheme](self._address.bucket, **made)
        except ERRORS as error:  # whose words may hold what it was given
            raise BadConfig(
                f"{self.label}: its options or credentials cannot be used",
                hint="docs/object-store.md says where they come from",
            ) from error
        return client


_KINDS: dict[str, Any] = {S3: S3Store, GCS: GCSStore, AZURE: AzureStore}


def _found(meta: Any) -> Found:
    return Found(meta["path"], meta["size"], _nanoseconds(meta["last_modified"]))


def _nanoseconds(time: datetime) -> int:
    return int(time.timestamp()) * 1_000_000_000 + time.microsecond * 1000
