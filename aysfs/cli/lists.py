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
from aysfs.cli.render import note, size_text
from aysfs.cli.session import load, run_async
from aysfs.errors import AysfsError, ExitCode
from aysfs.flist import Entry, Header, Loss, diff, encode_path, write_classic, write_flist
from aysfs.tree import Tree

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
        tree = loaded.tree
        click.echo(f"{name}: {len(tree)} entries, {size_text(tree.total_size)}: good")


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
    tree = run_async(partial(load, settings, [name], "/")).tree
    losses: Counter[Loss] = Counter()
    if form == "classic":
        chunks = write_classic(_entries(tree), losses)
    else:
        header = Header(2, None if base is None else os.fsencode(base))
        chunks = write_flist(header, _entries(tree))
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
    before = run_async(partial(load, settings, [old], "/")).tree
    after = run_async(partial(load, settings, [new], "/")).tree
    different = False
    for change in diff(_entries(before), _entries(after)):
        different = True
        fields = f" ({', '.join(change.fields)})" if change.fields else ""
        sys.stdout.buffer.write(
            _SHOWN[change.kind].encode() + b" " + change.path + fields.encode() + b"\n"
        )
    if different:
        ctx.exit(int(ExitCode.FAILURE))


def _entries(tree: Tree) -> Iterator[Entry]:
    """Every entry in list order. The root of everything is left out: no list needs it."""
    entries = [tree.entry(node) for node in tree.walk() if node]
    entries.sort(key=lambda entry: encode_path(entry.path))
    return iter(entries)


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
