"""Tar streams as blobs and a list, without the tree ever being on this disk.

Serves builds. Owns the paths: which member becomes which entry, whichever stream gave it last.
What a stream says is refused rather than guessed at, as a BuildFailed. The functions that
write to stores are asynchronous; all else blocks, and belongs into a worker thread.
"""

import os
from collections.abc import Sequence
from posixpath import dirname
from typing import NamedTuple

import trio

from aysfs.chunks import with_chunks
from aysfs.digest import ZERO, Digest
from aysfs.errors import AysfsError, BadList, BuildFailed
from aysfs.flist.entry import Entry, Ext, Header, Kind
from aysfs.flist.percent import encode_path
from aysfs.flist.rules import show
from aysfs.flist.text import write_flist
from aysfs.limits import LARGE
from aysfs.names import ServiceName
from aysfs.publish import tar
from aysfs.publish.batches import HELD, Batches, Filling, Put
from aysfs.publish.frames import Frames
from aysfs.publish.image import newest, send_image, sha256_of
from aysfs.publish.links import FirstNames, is_kept, rdev
from aysfs.publish.packs import PackReport, send_packs
from aysfs.publish.tar import BadTar, Member, Read, TarReader
from aysfs.store.claims import Claim
from aysfs.store.crew import side_by_side
from aysfs.store.packs import keep_packs
from aysfs.store.tree_image import keep_image

_KINDS = {
    tar.REGULAR: Kind.REGULAR,
    tar.SYMLINK: Kind.SYMLINK,
    tar.CHARACTER: Kind.CHARACTER,
    tar.BLOCK_DEVICE: Kind.BLOCK,
    tar.DIRECTORY: Kind.DIRECTORY,
    tar.FIFO: Kind.FIFO,
}


class _Node(NamedTuple):
    """An entry, and the number of the file in the streams that it is a name of."""

    entry: Entry
    file: int


class TarTree:
    """What several streams hold together; for the same path the later one wins.

    ``put`` gets each blob once. Times after ``epoch``, in seconds, are set back to it.
    """

    def __init__(self, put: Put, epoch: int | None = None) -> None:
        self._put = put
        self._latest = None if epoch is None else epoch * 10**9
        self._batches = Batches()
        self._nodes: dict[bytes, _Node] = {}
        self._tops: list[bytes] = []
        self._files = 0

    def add(self, read: Read, top: bytes, root: bytes | None = None) -> None:
        """Take in a stream. All its blobs have been put when this returns.

        ``top`` is the absolute path that was asked for, ``root`` the name that it has in the
        archive, by default the same path.
        """
        self._tops.append(top)
        place = _Place(top, top[1:] if root is None else root)
        try:
            self._batches.filled(lambda filling: self._read(read, place, filling), self._put)
        except BadTar as error:
            raise BuildFailed(f"what came of {_text(top)} is no whole archive: {error}") from error
        if top not in self._nodes:
            raise BuildFailed(f"what came of {_text(top)} does not hold it")

    def finish(self) -> tuple[Header, list[Entry]]:
        """The header, and all entries in the order of a list."""
        if not self._tops:
            raise BuildFailed("nothing was uploaded", hint="the build must call upload2AYSfs")
        self._check_parents()
        names = FirstNames()
        nodes = sorted(self._nodes.values(), key=lambda node: encode_path(node.entry.path))
        return Header(2, self._base()), [names.linked(node.entry, node.file) for node in nodes]

    def _base(self) -> bytes:
        """The deepest directory common to what was added."""
        return os.path.commonpath(
            [
                top if self._nodes[top].entry.kind == Kind.DIRECTORY else dirname(top)
                for top in self._tops
            ]
        )

    def _check_parents(self) -> None:
        """What one stream calls a directory may be none for another."""
        checked = {b"/"}
        for path in self._nodes:
            parent = dirname(path)
            while parent not in checked:
                checked.add(parent)
                node = self._nodes.get(parent)
                if node is not None and node.entry.kind != Kind.DIRECTORY:
                    raise BuildFailed(
                        f"{_text(path)} was uploaded, and {_text(parent)}, which is no directory",
                        hint="upload what a symlink points to, not a path through it",
                    )
                parent = dirname(parent)

    # --- in the thread that reads ------------------------------------------------------------

    def _read(self, read: Read, place: "_Place", filling: Filling) -> None:
        reader = TarReader(read)
        first = self._files
        for member in reader:
            path = place.path(member.name)
            if member.type == tar.LINK:
                self._link(path, place.path(member.link), first)
            else:
                digest, index = ZERO, None
                if member.type == tar.REGULAR:
                    digest, index = _blob(reader, member.size, filling)
                self._files += 1
                self._keep(_Node(self._entry(member, path, digest, index), self._files))

    def _link(self, path: bytes, target: bytes, first: int) -> None:
        """Another name of a file that came before in the same stream."""
        node = self._nodes.get(target)
        if node is None or node.file <= first or node.entry.kind == Kind.DIRECTORY:
            raise BadTar(f"{show(path)} is a link to {show(target)}, which did not come before it")
        self._keep(node._replace(entry=node.entry._replace(path=path)))

    def _keep(self, node: _Node) -> None:
        path = node.entry.path
        before = self._nodes.get(path)
        self._nodes[path] = node
        if before is None or before.entry.kind != Kind.DIRECTORY:
            return
        if node.entry.kind != Kind.DIRECTORY:
            for other in [one for one in self._nodes if one.startswith(path + b"/")]:
                del self._nodes[other]

    def _entry(self, member: Member, path: bytes, digest: Digest, index: Digest | None) -> Entry:
        kind = _KINDS[member.type]
        mtime_ns = member.mtime_ns
        if self._latest is not None and mtime_ns > self._latest:
            mtime_ns = self._latest
        ext = with_chunks(_ext(member, kind, path), index)
        return Entry(
            path, kind, member.mode, member.uid, member.gid, member.size, digest, mtime_ns, ext
        )


class _Place:
    """Where the members of a stream belong."""

    def __init__(self, top: bytes, root: bytes) -> None:
        self._top = top.rstrip(b"/")
        self._root = _plain(root)

    def path(self, name: bytes) -> bytes:
        """The absolute path of a member."""
        plain = _plain(name)
        if plain == self._root:
            return self._top or b"/"
        if not self._root:
            return self._top + b"/" + plain
        if not plain.startswith(self._root + b"/"):
            raise BadTar(f"{show(name)} is not below {show(self._root)}")
        return self._top + plain[len(self._root) :]


def _plain(name: bytes) -> bytes:
    """A relative name in its shortest form."""
    if name.startswith(b"/") or b"\0" in name:
        raise BadTar(f"the name {show(name)} is absolute or holds a NUL")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise BadTar(f"the name {show(name)} climbs out")
    return b"/".join(parts)


def _blob(reader: TarReader, size: int, filling: Filling) -> tuple[Digest, Digest | None]:
    """The digest of a member's bytes, and that of their index where they are many."""
    if size <= HELD:
        return filling.add(reader.data()), None
    digest, index = filling.spool(reader.pieces(), chunks=size > LARGE)
    return digest, filling.add(index) if index else None


def _ext(member: Member, kind: Kind, path: bytes) -> Ext:
    if kind is Kind.SYMLINK:
        return ((b"target", member.link),)
    if kind in (Kind.BLOCK, Kind.CHARACTER):
        try:
            return rdev(path, member.major, member.minor)
        except AysfsError as error:
            raise BuildFailed(str(error), hint=error.hint) from error
    if member.xattrs and kind in (Kind.REGULAR, Kind.DIRECTORY):
        return tuple(
            sorted((b"xattr." + name, value) for name, value in member.xattrs if is_kept(name))
        )
    return ()


def _text(path: bytes) -> str:
    return os.fsdecode(path)


# --- to stores, in the event loop --------------------------------------------------------


async def publish_list(
    claims: Sequence[Claim],
    name: ServiceName,
    header: Header,
    entries: Sequence[Entry],
    *,
    image: bool = False,
    frames: Frames | None = None,
) -> PackReport | None:
    """Publish the list in every store, with its ``image``. All blobs must be there.

    Where ``frames`` of its blobs are given, its packs are made of them, and told of.

    None gets it while one does not answer: a service without a blob asked for none until now.
    """
    try:
        chunks = await trio.to_thread.run_sync(lambda: list(write_flist(header, entries)))
    except BadList as error:
        raise BuildFailed(f"what was built fits no list: {error}") from error
    await side_by_side(claims, _answers)
    sha256 = sha256_of(chunks)
    new = await send_image(claims, chunks, sha256, newest(entries)) if image else None
    made, packed = None, None
    if frames is not None:
        made, packed = await send_packs(claims, name, sha256, lambda: entries, frames)
    for claim in claims:
        await keep_image(claim, name, sha256, new)
        await keep_packs(claim, name, sha256, made)
        await claim.publish(name, chunks)
    return packed


async def _answers(claim: Claim) -> None:
    await claim.store.missing({ZERO: 0})  # any question that has to be asked there
