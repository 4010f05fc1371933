"""``aysfs flist``: lists as files or services: check, convert, diff."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import click

from aysfs.cli.config import Settings, settings_options
from aysfs.cli.render import note
from aysfs.cli.session import load, run_async
from aysfs.digest import ZERO
from aysfs.errors import AysfsError, ExitCode
from aysfs.flist import (
    Entry,
    FlistReader,
    Header,
    Kind,
    Loss,
    diff,
    encode_path,
    write_classic,
    write_flist,
)
from aysfs.load import Loaded
from aysfs.sizes import size_text
from aysfs.store.open import open_stores

_SHOWN = {"added": "+", "removed": "-", "changed": "~"}


@click.group("flist")
def flist_command() -> None:
    """Check, convert and compare lists, given as files or services."""


@flist_command.command("check")
@click.argument("names", nargs=-1, required=True, metavar="LIST...")
@settings_options
def check_command(settings: Settings, names: tuple[str, ...]) -> None:
    """Read every LIST whole; the first error ends it with file, line and reason."""
    for name in names:
        loaded = run_async(partial(load, settings, [name], "/"))
        implied = f" and {loaded.implied} implied directories" if loaded.implied else ""
        size = size_text(loaded.tree.total_size)
        click.echo(f"{name}: {loaded.named} entries{implied}, {size}: good")


@flist_command.command("convert")
@click.argument("name", metavar="LIST")
@click.option("--to", "form", type=click.Choice(["full", "classic"]), required=True)
@click.option("--base", help="The `#base` of a full list.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="A file; else stdout.")
@settings_options
def convert_command(
    settings: Settings, name: str, form: str, base: str | None, output: Path | None
) -> None:
    """Write LIST in another form, and say what that form cannot hold."""
    loaded = run_async(partial(load, settings, [name], "/"))
    losses: Counter[Loss] = Counter()
    if form == "classic":
        chunks = write_classic(_entries(loaded), losses)
    else:
        header = run_async(partial(_header, settings, name))._replace(version=2)
        if base is not None:
            header = header._replace(base=os.fsencode(base))
        chunks = write_flist(header, _entries(loaded), source=name)
    with _output(output) as file:
        for chunk in chunks:
            file.write(chunk)
    for loss, count in losses.items():
        note(f"aysfs: {count} {loss}")


@flist_command.command("diff")
@click.argument("old")
@click.argument("new")
@settings_options
@click.pass_context
def diff_command(ctx: click.Context, settings: Settings, old: str, new: str) -> None:
    """Show what changed from the list OLD to NEW; exit code 1 when anything did."""
    before = run_async(partial(load, settings, [old], "/"))
    after = run_async(partial(load, settings, [new], "/"))
    different = False
    for change in diff(_undated(before), _undated(after)):
        different = True
        fields = f" ({', '.join(change.fields)})" if change.fields else ""
        sys.stdout.buffer.write(
            _SHOWN[change.kind].encode() + b" " + change.path + fields.encode() + b"\n"
        )
    if different:
        ctx.exit(int(ExitCode.FAILURE))


async def _header(settings: Settings, name: str) -> Header:
    """The header of a list that was read before."""
    ref = settings.ref(name)
    if isinstance(ref, Path):
        file: BinaryIO = open(ref, "rb")  # noqa: ASYNC230, SIM115 - a local list, closed below
    else:
        store = open_stores(settings.store, namespace=settings.namespace)
        try:
            file = (await store.open_list(ref)).file
        finally:
            await store.aclose()
    with file:
        return FlistReader(file, source=name, mtime_ns=0).header


def _entries(loaded: Loaded) -> Iterator[Entry]:
    """Every entry in list order; the root only when the list says something about it."""
    tree, mtime_ns = loaded.tree, loaded.lists[0].mtime_ns
    entries = [tree.entry(node) for node in tree.walk()]
    if entries[0] == Entry(b"/", Kind.DIRECTORY, 0o755, 0, 0, 0, ZERO, mtime_ns):
        del entries[0]
    entries.sort(key=lambda entry: encode_path(entry.path))
    return iter(entries)


def _undated(loaded: Loaded) -> Iterator[Entry]:
    """The same; what has the time of the list itself, because no line gives one, has none."""
    mtime_ns = loaded.lists[0].mtime_ns
    for entry in _entries(loaded):
        yield entry._replace(mtime_ns=0) if entry.mtime_ns == mtime_ns else entry


@contextmanager
def _output(path: Path | None) -> Iterator[BinaryIO]:
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    tmp = path.with_name(f".{path.name}.tmp")
    try:
        with open(tmp, "wb") as file:
            yield file
        tmp.rename(path)
    except OSError as error:
        tmp.unlink(missing_ok=True)
        raise AysfsError(f"{path} cannot be written: {error.strerror}") from error
