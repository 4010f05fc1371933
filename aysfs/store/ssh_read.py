"""The reading half of the SSH store: what lies below the root, in either layout.

Serves ``SshStore``; runs in the thread of whoever calls, and changes nothing on the server.
Tells "not there" from trouble, and judges sizes but never content: that is the receiver's work.
"""

import collections
import contextlib
import itertools
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

from aysfs.digest import Digest
from aysfs.errors import BlobMissing, Corrupt, ListMissing, NoteMissing, StoreTrouble
from aysfs.names import ServiceName
from aysfs.store import layout, ssh_wire
from aysfs.store.protocol import OpenList, Sink, Stored, Stray, Writes
from aysfs.store.ssh_link import Link
from aysfs.store.ssh_wire import Answer, Attributes, NotThereError, RefusedError, Wire

# From so many blobs wanted of one directory on, it is listed instead of asking for each.
LIST_FROM = 8
DIRECTORIES = 32  # open at once; a server has a bound of its own for handles

Place = Callable[[str, Digest], str]


class Reader:
    """Blobs, lists and notes below ``root/namespace``, as the server shows them.

    With ``create`` a store that is not there yet is one that holds nothing.
    """

    def __init__(
        self, link: Link, root: str, namespace: str, label: str, *, create: bool = False
    ) -> None:
        self._link = link
        self._root = root
        self._namespace = namespace
        self._label = label
        self._create = create

    def read(self, digest: Digest, size: int, sink: Sink) -> None:
        """A blob of any size, piece by piece."""
        self.read_range(digest, size, 0, size, sink)

    def read_range(self, digest: Digest, size: int, start: int, length: int, sink: Writes) -> None:
        """A part of a blob, piece by piece."""
        other: Corrupt | None = None
        with self._link.wire() as wire:
            for place in (layout.blob, layout.old_blob):
                relative = place(self._namespace, digest)
                try:
                    with self._opened(wire, relative) as handle:
                        spans = _spans(start, start + length)
                        self._pour(wire, handle, relative, size, sink, spans)
                    return
                except NotThereError:
                    continue
                except Corrupt as error:
                    other = other or error
            if other is not None:
                raise other
            self._check_present(wire)
        raise BlobMissing(f"{self._label} has no blob {digest.hex()}")

    def size_of(self, digest: Digest) -> int:
        """The size of a blob, where the first layout that has it has it."""
        with self._link.wire() as wire:
            for place in (layout.blob, layout.old_blob):
                relative = place(self._namespace, digest)
                answer = wire.ask(*ssh_wire.stat(self._path(relative)))
                with contextlib.suppress(NotThereError):
                    return self._sized(relative, answer, None).size
            self._check_present(wire)
        raise BlobMissing(f"{self._label} has no blob {digest.hex()}")

    def missing(self, wanted: Mapping[Digest, int]) -> set[Digest]:
        """Those that neither layout holds with their size."""
        with self._link.wire() as wire:
            if not self._create:
                self.check_root(wire)
            absent = self._not_held(wire, layout.blob, wanted)
            if absent and self.is_directory(wire, f"{self._namespace}/files"):
                left = {digest: wanted[digest] for digest in absent}
                absent = self._not_held(wire, layout.old_blob, left)
        return absent

    def holds(self, wire: Wire, relative: str, size: int) -> bool:
        """Whether there is a file of this size."""
        answer = wire.ask(*ssh_wire.stat(self._path(relative)))
        return self._has_size(answer, size, relative)

    def open_list(self, name: ServiceName) -> OpenList:
        """The current list, copied here: what follows needs no connection."""
        relative = layout.list_path(self._namespace, name)
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the receiver closes it
        try:
            with self._link.wire() as wire:
                try:
                    with self._opened(wire, relative) as handle:
                        found = self._pour_all(wire, handle, relative, file)
                except NotThereError:
                    raise self.list_missing(wire, name) from None
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return OpenList(file, found.mtime_ns, f"{self._label}/{relative}")

    def list_missing(self, wire: Wire, name: ServiceName) -> ListMissing:
        """What to raise for a list that is not there; StoreTrouble where nothing is."""
        self._check_present(wire)
        return ListMissing(f"{self._label} has no list {name}")

    def lists(self) -> list[ServiceName]:
        """All lists, sorted; foreign files among them are passed over."""
        return sorted(filter(None, map(layout.parse_list_file, self._beside_lists())), key=str)

    def read_note(self, name: str) -> bytes:
        """All of a note."""
        relative = layout.note_path(self._namespace, name)
        held = _Bounded(f"{self._label}/{relative}")
        with self._link.wire() as wire:
            try:
                with self._opened(wire, relative) as handle:
                    self._pour_all(wire, handle, relative, held)
            except NotThereError:
                self._check_present(wire)
                raise NoteMissing(f"{self._label} has no note {name}") from None
        return bytes(held.data)

    def notes(self) -> dict[str, int]:
        """The names of all notes, sorted, and when each was written, to the second."""
        found = self._beside_lists()
        return {name: found[name].mtime_ns for name in sorted(filter(layout.is_note, found))}

    def shelf(self, first: int) -> list[Stored]:
        """The blobs that begin with this byte, in both layouts."""
        found: list[Stored] = []
        with self._link.wire() as wire:
            for names in self._contents(wire, layout.shelves(self._namespace, first)):
                for name, about in names.items():
                    digest = layout.parse_blob_file(name, first)
                    if digest is not None and about.is_regular:
                        found.append(Stored(digest, about.size, about.mtime_ns))
            if not found:
                self._check_present(wire)
        return found

    def strays(self) -> list[Stray]:
        """What lies at the top and beside the lists, and belongs to neither."""
        folders = (self._namespace, layout.list_directory(self._namespace))
        with self._link.wire() as wire:
            top, beside = self._contents(wire, folders)
            if not top:
                self._check_present(wire)
        beside = {f"md/{name}": beside[name] for name in filter(layout.is_stray, beside)}
        return [
            Stray(path, about.size, about.mtime_ns)
            for path, about in (top | beside).items()
            if about.is_regular
        ]

    def trouble(self, relative: str, error: Exception) -> StoreTrouble:
        """What to raise for a refusal about a path of the store."""
        what = str(error) or ("no such file" if isinstance(error, NotThereError) else "refused")
        return StoreTrouble(f"{self._label}/{relative}: {what.lower()}".replace("/:", ":"))

    # --- files -------------------------------------------------------------------------------

    def _path(self, relative: str) -> str:
        return f"{self._root}/{relative}"

    @contextlib.contextmanager
    def _opened(self, wire: Wire, relative: str) -> Iterator[bytes]:
        """The handle of a file; NotThereError goes to the caller."""
        handle = self._done(relative, wire.ask(*ssh_wire.open_to_read(self._path(relative))))
        assert isinstance(handle, bytes)
        try:
            yield handle
        finally:
            if not wire.failed:
                wire.tell(*ssh_wire.close(handle))

    def _pour_all(self, wire: Wire, handle: bytes, relative: str, sink: Writes) -> Attributes:
        """The bytes of an open file of any size into the sink."""
        size = self._sized(relative, wire.ask(*ssh_wire.fstat(handle)), None).size
        return self._pour(wire, handle, relative, size, sink, _spans(0, size))

    def _pour(
        self,
        wire: Wire,
        handle: bytes,
        relative: str,
        size: int,
        sink: Writes,
        spans: Sequence[tuple[int, int]],
    ) -> Attributes:
        """These bytes of an open file into the sink; Corrupt when the file has another size."""
        reads = (ssh_wire.read(handle, start, count) for start, count in spans)
        answers = wire.pipelined(itertools.chain([ssh_wire.fstat(handle)], reads))
        with contextlib.closing(answers):
            found = self._sized(relative, next(answers), size)
            for (start, count), answer in zip(spans, answers, strict=False):
                data = self._data(relative, answer)
                while len(data) < count:  # a server may give less than it was asked for
                    request = ssh_wire.read(handle, start + len(data), count - len(data))
                    data += self._data(relative, wire.ask(*request))
                sink.write(data)
        return found

    def _sized(self, relative: str, answer: Answer, size: int | None) -> Attributes:
        found = self._done(relative, answer)
        assert isinstance(found, Attributes)
        if not found.is_regular:
            raise StoreTrouble(f"{self._label}/{relative}: not a regular file")
        if size is not None and found.size != size:
            raise Corrupt(
                f"{self._label}/{relative}: {found.size} bytes where {size} were expected"
            )
        return found

    def _data(self, relative: str, answer: Answer) -> bytes:
        data = self._done(relative, answer)
        if not isinstance(data, bytes) or not data:
            raise StoreTrouble(f"{self._label}/{relative}: shorter than the server said")
        return data

    def _done(self, relative: str, answer: Answer) -> Answer:
        """The answer, unless it is a refusal."""
        if isinstance(answer, RefusedError):
            raise self.trouble(relative, answer)
        if isinstance(answer, Exception):
            raise answer
        return answer

    # --- what is there -----------------------------------------------------------------------

    def is_directory(self, wire: Wire, relative: str) -> bool:
        """Whether there is a directory, or a link to one."""
        try:
            found = self._done(relative, wire.ask(*ssh_wire.stat(self._path(relative))))
        except NotThereError:
            return False
        return isinstance(found, Attributes) and stat.S_ISDIR(found.mode)

    def check_root(self, wire: Wire) -> None:
        """StoreTrouble unless the root is there."""
        if not self.is_directory(wire, ""):
            raise StoreTrouble(
                f"{self._label}: no such directory", hint="is the disk of the store mounted there?"
            )

    def _check_present(self, wire: Wire) -> None:
        """StoreTrouble unless the namespace is there: only then "no such file" means missing."""
        if self._create:
            return
        if not self.is_directory(wire, self._namespace):
            self.check_root(wire)
            raise StoreTrouble(f"{self._label}/{self._namespace}: no such directory")

    def _has_size(self, answer: Answer, size: int, relative: str) -> bool:
        try:
            found = self._done(relative, answer)
        except NotThereError:
            return False
        return isinstance(found, Attributes) and found.size == size

    def _not_held(self, wire: Wire, place: Place, wanted: Mapping[Digest, int]) -> set[Digest]:
        """Asked in as few round trips as there are windows of requests."""
        crowds: dict[str, list[Digest]] = collections.defaultdict(list)
        for digest in wanted:
            crowds[place(self._namespace, digest).rpartition("/")[0]].append(digest)
        listed = [folder for folder, crowd in crowds.items() if len(crowd) >= LIST_FROM]
        absent: set[Digest] = set()
        for start in range(0, len(listed), DIRECTORIES):
            some = listed[start : start + DIRECTORIES]
            for folder, found in zip(some, self._contents(wire, some), strict=True):
                sizes = {name: about.size for name, about in found.items()}
                absent.update(d for d in crowds[folder] if sizes.get(d.hex()) != wanted[d])
        few = [d for crowd in crowds.values() if len(crowd) < LIST_FROM for d in crowd]
        paths = [place(self._namespace, digest) for digest in few]
        requests = (ssh_wire.stat(self._path(path)) for path in paths)
        with contextlib.closing(wire.pipelined(requests)) as answers:
            for digest, path, answer in zip(few, paths, answers, strict=True):
                if not self._has_size(answer, wanted[digest], path):
                    absent.add(digest)
        return absent

    def _beside_lists(self) -> dict[str, Attributes]:
        """What is in the directory of the lists."""
        relative = layout.list_directory(self._namespace)
        with self._link.wire() as wire:
            found = self._contents(wire, [relative])[0]
            if not found:
                self._check_present(wire)
        return found

    def _contents(self, wire: Wire, folders: Sequence[str]) -> list[dict[str, Attributes]]:
        """What is in each of these directories; nothing in one that is not there."""
        found: list[dict[str, Attributes]] = [{} for _ in folders]
        opened: dict[int, bytes] = {}
        asked = [ssh_wire.open_directory(self._path(folder)) for folder in folders]
        for number, answer in enumerate(list(wire.pipelined(asked))):
            with contextlib.suppress(NotThereError):
                handle = self._done(folders[number], answer)
                assert isinstance(handle, bytes)
                opened[number] = handle
        while opened:
            order = list(opened)
            answers = list(wire.pipelined(ssh_wire.read_directory(opened[n]) for n in order))
            for number, answer in zip(order, answers, strict=True):
                if isinstance(answer, list):
                    found[number].update(answer)
                    continue
                wire.tell(*ssh_wire.close(opened.pop(number)))
                if not (isinstance(answer, RefusedError) and answer.code == ssh_wire.EOF):
                    self._done(folders[number], answer)
        return found


class _Bounded:
    """Takes the bytes of a note, and no more."""

    def __init__(self, where: str) -> None:
        self.data = bytearray()
        self._where = where

    def write(self, data: bytes | memoryview, /) -> None:
        self.data += data
        if len(self.data) > layout.NOTE_LIMIT:
            raise StoreTrouble(f"{self._where}: larger than the {layout.NOTE_LIMIT} of a note")


def _spans(start: int, end: int) -> list[tuple[int, int]]:
    """Where each piece of a part of a file begins, and its length."""
    piece = ssh_wire.PIECE
    return [(position, min(piece, end - position)) for position in range(start, end, piece)]
