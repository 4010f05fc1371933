"""From the names of lists to tree images in the cache, for the daemon.

A list that was compiled before is only hashed; another is compiled in a process of its own.
"""

import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import trio

from aysfs.cache.blobs import Cache
from aysfs.errors import BadConfig, ExitCode, MountFailed, PathMissing, StoreTrouble
from aysfs.image import WRITER_VERSION
from aysfs.load import opened_lists, sha256_of
from aysfs.mount.client import DaemonFailed
from aysfs.mount.options import MountOptions
from aysfs.mount.overlay.compile import Facts, Work
from aysfs.mount.overlay.named import open_image
from aysfs.mount.overlay.options import mount_namespace
from aysfs.mount.overlay.plan import Compiled, Plan
from aysfs.store.protocol import OpenList, Store

log = logging.getLogger(__name__)

_PYTHON = (sys.executable, "-P", "-m")
_COMPILER = "aysfs.mount.overlay.compile"
_CLASHING = "aysfs.mount.overlay.clashing"


async def prepare(store: Store, cache: Cache, options: MountOptions) -> Plan:
    """Have the images of a mount's lists in the cache. Raises as ``load_tree`` does."""
    folder = cache.root / "images"
    with trio.move_on_after(options.deadline):
        found = await opened_lists(store, options.refs, lambda lists: _find(lists, folder))
        lists = _shown([await _compiled(one, options) for one in found], options)
        clashes = await _report_clashes(lists) if len(lists) > 1 else 0
        return Plan(options, tuple(lists), mount_namespace(), clashes)
    raise StoreTrouble(f"{store.label}: no list within {options.deadline:g} s")


def _find(lists: Sequence[OpenList], folder: Path) -> list["_Found"]:
    folder.mkdir(mode=0o700, exist_ok=True)
    return [_Found(one, folder) for one in lists]


class _Found:
    """A list, and the files of its image, which may have to be made."""

    def __init__(self, one: OpenList, folder: Path) -> None:
        """Hash the list, and copy it when there is no image of it. Waits for the store."""
        self.source, self.mtime_ns = one.source, one.mtime_ns
        self.sha256 = sha256_of(one.file)
        stem = f"{self.sha256}-{WRITER_VERSION}"
        self.image, self.index = folder / f"{stem}.erofs", folder / f"{stem}.index"
        self.kept = folder / f"{stem}.json"
        self.copy = folder / f"{stem}.{os.getpid()}.list"
        if not self.kept.exists():
            with open(self.copy, "wb") as copy:
                shutil.copyfileobj(one.file, copy)


async def _compiled(found: _Found, options: MountOptions) -> Compiled:
    try:
        facts = Facts(**json.loads(found.kept.read_text()))
    except FileNotFoundError:
        facts = await _compile(found)
    base = _choose(facts, options)
    return Compiled(
        found.source,
        found.sha256,
        str(found.image),
        str(found.index),
        base,
        facts.entries,
        facts.size,
    )


def _shown(lists: list[Compiled], options: MountOptions) -> list[Compiled]:
    """The lists that have something below their base. BadConfig when there is none."""
    shown = []
    for one in lists:
        try:
            open_image(one).close()
        except PathMissing:
            log.info("%s: nothing lies below %s", one.source, one.base)
        else:
            shown.append(one)
    if not shown:
        sources = ", ".join(one.source for one in lists)
        raise BadConfig(
            f"{sources}: nothing lies below the base {options.base}",
            hint="without --base the list's own base is shown",
        )
    return shown


async def _report_clashes(lists: Sequence[Compiled]) -> int:
    """Tell which paths the lists contradict each other in; how many they are."""
    asked = json.dumps([asdict(one) for one in lists]).encode()
    done = await trio.run_process([*_PYTHON, _CLASHING], stdin=asked, capture_stdout=True)
    answer = json.loads(done.stdout)
    for path, winner, loser in answer["told"]:
        log.info("%s: the one of %s is shown, not that of %s", path, winner, loser)
    if more := answer["count"] - len(answer["told"]):
        log.info("and %d more clashes", more)
    return int(answer["count"])


async def _compile(found: _Found) -> Facts:
    work = Work(str(found.copy), found.source, found.mtime_ns, str(found.image), str(found.index))
    try:
        done = await trio.run_process(
            [*_PYTHON, _COMPILER],
            stdin=json.dumps(asdict(work)).encode(),
            capture_stdout=True,
            check=False,
        )
    finally:
        with suppress(FileNotFoundError):
            found.copy.unlink()
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise MountFailed(
            f"{found.source}: its image was not made: the compiler ended with {done.returncode}",
            hint="the log has what it said",
        ) from None
    if "failed" in answer:
        raise DaemonFailed(answer["failed"], answer.get("code", ExitCode.MOUNT), answer["hint"])
    found.kept.write_text(json.dumps(answer))
    return Facts(**answer)


def _choose(facts: Facts, options: MountOptions) -> str:
    """As ``choose_base``, from what is kept of a list."""
    given = options.base if options.base is not None else facts.base
    if given is not None:
        return "/" + given.strip("/")
    point = options.point
    return point if facts.common == point or facts.common.startswith(point + "/") else "/"
