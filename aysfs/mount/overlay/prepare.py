"""From the names of lists to open tree images, for the daemon.

A list that was compiled before is only hashed. Of another the image is taken from a store that is
trusted for that, or compiled: a short one here, a long one in a process of its own.
"""

import io
import json
import logging
import os
import secrets
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path

import trio

from aysfs.cache.compile import compile_list
from aysfs.cache.images import CachedImage, ImageCache
from aysfs.cache.list_key import ListKey
from aysfs.errors import BadConfig, CacheUnusable, ExitCode, MountFailed, PathMissing, StoreTrouble
from aysfs.load import base_of, opened_lists, sha256_of
from aysfs.mount.client import DaemonFailed
from aysfs.mount.options import MountOptions
from aysfs.mount.overlay import trust
from aysfs.mount.overlay.clashing import Comparison
from aysfs.mount.overlay.compile import Work
from aysfs.mount.overlay.named import OpenedLists
from aysfs.mount.overlay.options import mount_namespace
from aysfs.mount.overlay.plan import Plan, ShownList
from aysfs.names import ListRef, ServiceName
from aysfs.store.protocol import OpenList, Store

log = logging.getLogger(__name__)

_PYTHON = (sys.executable, "-P", "-m")
_COMPILER = "aysfs.mount.overlay.compile"
_CLASHING = "aysfs.mount.overlay.clashing"
# Bytes of a list: some 20 ms of work, where the start of a process takes 80 to 100. As each part of
# a path is a directory with a path of its own, these are bounded too: 64 MiB at most.
_SHORT = 256 << 10
_MOST_PARTS, _LONGEST_LINE = 1 << 15, 4096


async def prepare(
    store: Store, images: ImageCache, options: MountOptions
) -> tuple[Plan, OpenedLists]:
    """What a mount shows, and its lists, open. Raises as ``load_tree`` does, and ImageRefused."""
    with ExitStack() as undo:
        found = await _find(store, images, options)
        for one in found:
            undo.callback(one.close)
        for one in found:
            await one.complete(images, options)
        shown = [one for one in found if one.has_base(options)]
        if not shown:
            sources = ", ".join(one.source for one in found)
            raise BadConfig(
                f"{sources}: nothing lies below the base {options.base}",
                hint="without --base the list's own base is shown",
            )
        lists = tuple(one.shown(options) for one in shown)
        clashes = await _report_clashes(options.cache, lists) if len(lists) > 1 else 0
        opened = OpenedLists(
            [one.take() for one in shown], [os.fsencode(one.base) for one in lists]
        )
    return Plan(options, lists, mount_namespace(), clashes), opened


async def _find(store: Store, images: ImageCache, options: MountOptions) -> list["_Found"]:
    def look(lists: Sequence[OpenList]) -> list[_Found]:
        with ExitStack() as undo:
            found = []
            for one, ref in zip(lists, options.refs, strict=True):
                found.append(_Found(one, ref, images, trust.origins(options)))
                undo.callback(found[-1].close)
            undo.pop_all()
            return found

    with trio.move_on_after(options.deadline):
        return await opened_lists(store, options.refs, look)
    raise StoreTrouble(f"{store.label}: no list within {options.deadline:g} s")


class _Found:
    """A list, and its image, which may have to be made."""

    def __init__(
        self, one: OpenList, ref: ListRef, images: ImageCache, origins: Sequence[str]
    ) -> None:
        """Hash the list, and copy it when there is no image of it. Waits for the store."""
        self.source = one.source
        self._ref = ref
        self._key = ListKey(sha256_of(one.file), one.mtime_ns)
        self._image = images.find(self._key, origins=origins)
        self._copy: Path | None = None
        if self._image is None:
            self._copy = images.folder / f"{secrets.token_hex(8)}.list"
            with open(self._copy, "wb") as copy:
                shutil.copyfileobj(one.file, copy)

    def close(self) -> None:
        """Let go of what nobody took."""
        if self._copy is not None:
            with suppress(FileNotFoundError):
                self._copy.unlink()
        if self._image is not None:
            self._image.close()

    def take(self) -> CachedImage:
        """The image, which is the caller's from here on."""
        assert self._image is not None
        image, self._image = self._image, None
        return image

    async def complete(self, images: ImageCache, options: MountOptions) -> None:
        """Have the image."""
        if self._copy is not None:
            self._image = await self._made(images, options, self._copy)
        if self._image is None:
            raise CacheUnusable(f"{images.folder}: the image of {self.source} is gone already")

    async def _made(
        self, images: ImageCache, options: MountOptions, copy: Path
    ) -> CachedImage | None:
        size, image = copy.stat().st_size, None
        if isinstance(self._ref, ServiceName):
            image = await trust.take_trusted(images, self._key, size, self._ref, options)
        if image is None and size <= _SHORT:
            image = await trio.to_thread.run_sync(self._compile_here, images, copy)
        if image is None:
            key = self._key
            await _compile(Work(options.cache, str(copy), self.source, key.sha256, key.mtime_ns))
            image = await trio.to_thread.run_sync(images.find, key)
        return image

    def _compile_here(self, images: ImageCache, copy: Path) -> CachedImage | None:
        """The image of a short list; None of one that takes more than its length says."""
        data = copy.read_bytes()
        longest = max(map(len, data.split(b"\n")))
        if data.count(b"/") > _MOST_PARTS or longest > _LONGEST_LINE:
            return None
        return compile_list(images, self._key, io.BytesIO(data), self.source)

    def shown(self, options: MountOptions) -> ShownList:
        """The list as a plan has it."""
        assert self._image is not None
        base, origin = os.fsdecode(self._choose(options)), self._image.origin
        return ShownList(self.source, self._key.sha256, self._key.mtime_ns, base, origin)

    def has_base(self, options: MountOptions) -> bool:
        """Whether the list has anything to show."""
        assert self._image is not None
        base = self._choose(options)
        try:
            self._image.tree(base)
        except PathMissing:
            log.info("%s: nothing lies below %s", self.source, os.fsdecode(base))
            return False
        return True

    def _choose(self, options: MountOptions) -> bytes:
        assert self._image is not None
        given = None if options.base is None else os.fsencode(options.base)
        return base_of(self._image.facts, given, os.fsencode(options.point))


async def _compile(work: Work) -> None:
    done = await trio.run_process(
        [*_PYTHON, _COMPILER],
        stdin=json.dumps(asdict(work)).encode(),
        capture_stdout=True,
        check=False,
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise MountFailed(
            f"{work.source}: its image was not made: the compiler ended with {done.returncode}",
            hint="the log has what it said",
        ) from None
    if "failed" in answer:
        raise DaemonFailed(answer["failed"], answer.get("code", ExitCode.MOUNT), answer["hint"])


async def _report_clashes(cache: str, lists: tuple[ShownList, ...]) -> int:
    """Tell which paths the lists contradict each other in; how many they are."""
    asked = json.dumps(asdict(Comparison(cache, lists))).encode()
    done = await trio.run_process([*_PYTHON, _CLASHING], stdin=asked, capture_stdout=True)
    answer = json.loads(done.stdout)
    for path, winner, loser in answer["told"]:
        log.info("%s: the one of %s is shown, not that of %s", path, winner, loser)
    if more := answer["count"] - len(answer["told"]):
        log.info("and %d more clashes", more)
    return int(answer["count"])
