"""``aysfs ls``, ``cat``, ``stat``, ``fetch``, ``unpack``: a service without a mount."""

import gc
import os
import stat
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click
import trio

from aysfs.cli.config import Settings, settings_options
from aysfs.cli.progress import progress
from aysfs.cli.render import note, show_json
from aysfs.cli.session import (
    ahead,
    entry,
    fetching,
    flush_now,
    load_from,
    run_async,
    view,
    view_from,
)
from aysfs.errors import PathMissing
from aysfs.fetch.bulk import BulkReport, Wanted, fetch_all
from aysfs.fetch.modes import ALL, PACKS
from aysfs.fetch.prefetch import Seen
from aysfs.flist import Kind
from aysfs.sizes import size_text
from aysfs.tree import FORMATS, ROOT, Node, TreeView
from aysfs.unpack import UnpackReport, unpack

_PIECE = 1 << 20
_PACKS_FIRST = 1.0  # seconds for which the list waits until packs are on their way


def _split(text: str) -> tuple[str, bytes]:
    """``NAME:PATH`` as name and path."""
    name, _, path = text.partition(":")
    return name, os.fsencode(path)


def _view(settings: Settings, name: str) -> TreeView:
    return run_async(partial(view, settings, [name])).tree


@click.command("ls")
@click.argument("what", metavar="NAME[:PATH]")
@click.option("-l", "long", is_flag=True, help="Mode, owner, size, time.")
@click.option("-R", "--recursive", is_flag=True, help="Everything below.")
@settings_options
def ls_command(settings: Settings, what: str, long: bool, recursive: bool) -> None:
    """List a service, or a directory or file in it."""
    name, path = _split(what)
    tree = _view(settings, name)
    top = tree.resolve(path, follow=not long or path.endswith(b"/"))
    write = sys.stdout.buffer.write
    if not tree.is_directory(top):
        write(_line(tree, top, path, long))
    elif recursive:
        for shown, node in tree.paths(top):
            write(_line(tree, node, shown, long))
    else:
        for one in tree.listing(top):
            write(_line(tree, one.node, one.name, long))


def _line(tree: TreeView, node: Node, shown: bytes, long: bool) -> bytes:
    if not long:
        return shown + b"\n"
    mode, uid, gid, size, mtime_ns, nlink = tree.attributes(node)
    moment = datetime.fromtimestamp(mtime_ns // 1_000_000_000, UTC)
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        extent = "{}, {}".format(*tree.rdev(node))
    else:
        extent = str(size)
    text = f"{stat.filemode(mode)} {nlink:3} {uid:5} {gid:5} {extent:>10} {moment:%Y-%m-%d %H:%M} "
    arrow = b" -> " + tree.target(node) if stat.S_ISLNK(mode) else b""
    return text.encode() + shown + arrow + b"\n"


@click.command("stat")
@click.argument("what", metavar="NAME[:PATH]")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@settings_options
def stat_command(settings: Settings, what: str, as_json: bool) -> None:
    """Show everything known of a path: attributes, md5, and the list it comes from."""
    name, path = _split(what)
    found, where = run_async(partial(entry, settings, name, path))
    shown: dict[str, object] = {
        "path": os.fsdecode(found.path),
        "type": stat.filemode(FORMATS[Kind(found.kind)])[0],
        "mode": f"{found.mode:04o}",
        "uid": found.uid,
        "gid": found.gid,
        "size": found.size,
        "mtime": f"{found.mtime_ns // 10**9}.{found.mtime_ns % 10**9:09}",
        "source": where.source,
    }
    if any(found.digest):
        shown["md5"] = found.digest.hex()
    shown |= {os.fsdecode(key): os.fsdecode(value) for key, value in found.ext}
    if as_json:
        show_json(shown)
        return
    for key, value in shown.items():
        click.echo(f"{key:>8}: {value}")


@click.command("cat")
@click.argument("what", metavar="NAME:PATH")
@settings_options
def cat_command(settings: Settings, what: str) -> None:
    """Write a file of a service to standard output, each byte verified before it is written."""
    name, path = _split(what)
    tree = _view(settings, name)
    node = tree.inode(tree.resolve(path))
    shown = os.fsdecode(path) or "/"
    if not tree.is_regular(node):
        raise PathMissing(f"{shown} is no regular file")
    run_async(partial(_cat, settings, tree, node, shown))


async def _cat(settings: Settings, tree: TreeView, node: Node, shown: str) -> None:
    size = tree.attributes(node).size
    if not size:
        return
    async with fetching(settings) as fetcher:
        digest, chunks = tree.digest(node), tree.chunks(node)
        if chunks is not None:
            with closing(await fetcher.large.open(digest, size, chunks, shown)) as reader:
                for at in range(0, size, _PIECE):
                    sys.stdout.buffer.write(await reader.read(at, _PIECE))
        else:
            with os.fdopen(await fetcher.open(digest, size, shown), "rb") as file:
                while piece := file.read(_PIECE):
                    sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


@click.command("fetch")
@click.argument("name")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--json", "as_json", is_flag=True, help="Report for scripts.")
@settings_options
def fetch_command(settings: Settings, name: str, paths: tuple[str, ...], as_json: bool) -> None:
    """Bring the blobs of a service, or of PATHs in it, into the cache."""
    fetched = run_async(partial(_fetch, settings, name, paths))
    report = fetched.report
    if as_json:
        show_json(
            {
                "blobs": report.blobs,
                "bytes": fetched.size,
                "fetched_bytes": fetched.fetched_bytes,
                "failed": report.failed,
                "failures": list(report.failures),
            }
        )
    else:
        came = size_text(fetched.fetched_bytes)
        click.echo(f"{report.blobs} blobs, {size_text(fetched.size)}; {came} fetched")
    if report.first_error is not None:
        for line in report.failures[1:]:
            note(f"aysfs: {line}")
        error = report.first_error
        raise type(error)(report.failures[0], hint=error.hint)


class _Fetched(NamedTuple):
    report: BulkReport
    size: int  # of all that was wanted
    fetched_bytes: int


async def _fetch(settings: Settings, name: str, paths: Sequence[str]) -> _Fetched:
    """All of a service through its packs, where it has some, and then what is left singly."""
    async with (
        fetching(settings) as fetcher,
        ahead(settings, fetcher, name, PACKS if paths else ALL) as prefetch,
    ):
        if not paths:  # what the list is needed for comes last
            with trio.move_on_after(_PACKS_FIRST):
                await prefetch.until_under_way()
        shown = await view_from(settings, fetcher.store, [name])
        tree = shown.tree
        tops = [tree.resolve(os.fsencode(path)) for path in paths] or [ROOT]
        prefetch.shows(Seen([one.sha256 for one in shown.lists], tree.blobs))
        wanted = await trio.to_thread.run_sync(_wanted, tree, tops)
        gc.freeze()  # tree and blobs live to the end: no collection needs to walk them
        with progress("fetch", len(wanted)) as meter:
            await prefetch.until_packs_are_done(meter)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flush_now, fetcher)  # while what is left is looked for
                report = await fetch_all(fetcher, wanted, meter)
        size = sum(one.size for one in wanted)
        return _Fetched(report, size, fetcher.counters.fetched_bytes)


def _wanted(tree: TreeView, tops: Sequence[Node]) -> list[Wanted]:
    return [
        Wanted(digest, size, os.fsdecode(tree.listed(path)))
        for path, digest, size in tree.blobs_below(tops)
    ]


@click.command("unpack")
@click.argument("name")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--base", help="The path of the list that DIRECTORY becomes.")
@settings_options
def unpack_command(settings: Settings, name: str, directory: Path, base: str | None) -> None:
    """Write a service as ordinary files into DIRECTORY, which must be new or empty."""
    report = run_async(partial(_unpack, settings, name, base, directory))
    click.echo(f"{report.entries} entries, {size_text(report.size)}")
    for (what, why), count in sorted(report.skipped.items()):
        note(f"aysfs: {what} not set on {count} entries: {why}")


async def _unpack(settings: Settings, name: str, base: str | None, directory: Path) -> UnpackReport:
    async with fetching(settings) as fetcher, ahead(settings, fetcher, name, ALL) as prefetch:
        loaded = await load_from(settings, fetcher.store, [name], base)
        tree = loaded.tree
        prefetch.shows(Seen([one.sha256 for one in loaded.lists], tree.blobs))
        with progress("unpack", len(tree)) as meter:
            return await unpack(tree, directory, fetcher, meter)
