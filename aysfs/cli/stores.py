"""``aysfs store``: make, look at, check, clean and copy stores, and name their lists."""

import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import click

from aysfs.cli.config import Settings, parse_age, settings_options, store_url
from aysfs.cli.progress import phases
from aysfs.cli.render import note, show_error, show_json
from aysfs.cli.session import end_as_interrupted, run_async
from aysfs.cli.writing import open_to_write
from aysfs.errors import BadConfig, BadList, BadName, BlobMissing, Corrupt, ListMissing
from aysfs.names import ServiceName, tagged
from aysfs.sizes import size_text
from aysfs.store.claims import GC_LAPSE, SETTLE, store_time
from aysfs.store.open_to_write import open_stores
from aysfs.store.protocol import Store
from aysfs.upkeep.check import CheckReport, Wrong, check
from aysfs.upkeep.copy import CopyReport, copy, retag
from aysfs.upkeep.gc import Amount, GcReport, gc
from aysfs.upkeep.info import info, read_lists

T = TypeVar("T")

_PATHS = 10  # of a damaged list that are shown
_SERVING = ("passwd", "serve")


class _StoreTable(click.Group):
    """Imports the web server when it is run, or its help shown: every other command is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_SERVING])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _SERVING:
            return super().get_command(ctx, cmd_name)
        command = getattr(importlib.import_module("aysfs.cli.serving"), f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command


@click.group("store", cls=_StoreTable)
def store_command() -> None:
    """Look after a store that services are published in."""


as_json_option = click.option("--json", "as_json", is_flag=True, help="For scripts.")


@store_command.command("init")
@click.argument("url", required=False)
@settings_options
def init_command(settings: Settings, url: str | None) -> None:
    """Make the store URL, or the configured one; one that is there stays as it is."""
    where = settings.store if url is None else (store_url(url),)
    label, count = run_async(partial(_init, settings, where))
    click.echo(f"{label}: ready, {count} lists in the namespace {settings.namespace}")


async def _init(settings: Settings, urls: Sequence[str]) -> tuple[str, int]:
    async with _closing(open_to_write(settings, urls, given=False)) as store:
        await store_time(store)  # writing is what makes it
        return store.label, len(await store.lists())


@store_command.command("info")
@as_json_option
@settings_options
def info_command(settings: Settings, as_json: bool) -> None:
    """How much the store holds, and how much of it twice without deduplication."""
    with phases("store info", _number) as step:
        found = run_async(partial(_with_store, settings, partial(info, step=step)))
    if as_json:
        show_json(found._asdict() | {"saved": found.saved})
        return
    click.echo(f"services     {found.services}, and {found.tags} tags")
    click.echo(
        f"entries      {found.entries} in all lists, {size_text(found.listed_size)} of files"
    )
    click.echo(f"blobs        {found.blobs}, {size_text(found.size)}")
    click.echo(f"saved        {size_text(found.saved)} by deduplication")
    click.echo(f"nobody's     {found.unnamed} blobs, {size_text(found.unnamed_size)}")
    click.echo(f"leftovers    {found.leftovers} files, {size_text(found.leftovers_size)}")
    if found.pushes or found.gc:
        click.echo(f"at work      {found.pushes} pushes{' and a gc' if found.gc else ''}")
    _tell_unreadable(found.unreadable)


@store_command.command("ls")
@as_json_option
@settings_options
def ls_command(settings: Settings, as_json: bool) -> None:
    """Every service and tag, with entries, size and age."""
    with phases("store ls", _number) as step:
        lists, unreadable = run_async(
            partial(_with_store, settings, partial(read_lists, step=step))
        )
    if as_json:
        rows = [one._asdict() | {"name": str(one.name)} for one in lists]
        show_json({"lists": rows, "unreadable": unreadable})
        return
    width = max((len(str(one.name)) for one in lists), default=0)
    for one in lists:
        moment = datetime.fromtimestamp(one.mtime_ns // 1_000_000_000, UTC)
        click.echo(
            f"{one.name!s:{width}} {one.entries:9} entries {size_text(one.size):>10}"
            f"  {moment:%Y-%m-%d %H:%M}"
        )
    _tell_unreadable(unreadable)


# --- checking and cleaning ---------------------------------------------------------------


@store_command.command("check")
@click.argument("names", nargs=-1, metavar="[SERVICE]...")
@click.option("--deep", is_flag=True, help="Read and hash every blob.")
@as_json_option
@settings_options
def check_command(settings: Settings, names: tuple[str, ...], deep: bool, as_json: bool) -> None:
    """See that every blob of every list, or of the lists named, is there and of its size."""
    refs = [_service(settings, name) for name in names] or None
    with phases("store check", _number) as step:
        report = run_async(
            partial(_with_store, settings, partial(check, names=refs, deep=deep, step=step))
        )
    if as_json:
        show_json(_check_json(report))
    else:
        _show_check(report, deep)
    _judge(report)


def _show_check(report: CheckReport, deep: bool) -> None:
    for damage in report.damage:
        counts = f"{damage.missing} missing, {damage.corrupt} corrupt"
        click.echo(f"{damage.name}: {counts} of {damage.files} files")
        for hurt in damage.hurt[:_PATHS]:
            path = hurt.path.decode(errors="backslashreplace")
            click.echo(f"  {path}: {hurt.digest.hex()} is {hurt.wrong.value}")
        more = damage.missing + damage.corrupt - min(len(damage.hurt), _PATHS)
        if more:
            click.echo(f"  and {more} more")
    _tell_unreadable(report.unreadable)
    good = len(report.lists) - len(report.damage)
    how = "are right to the byte" if deep else "are there"
    click.echo(
        f"{good} of {len(report.lists) + len(report.unreadable)} lists are whole;"
        f" {report.blobs - len(report.wrong)} of {report.blobs} blobs {how}"
    )


def _check_json(report: CheckReport) -> object:
    return {
        "lists": [str(one.name) for one in report.lists],
        "unreadable": report.unreadable,
        "blobs": report.blobs,
        "size": report.size,
        "wrong": {digest.hex(): wrong.value for digest, wrong in report.wrong.items()},
        "damage": [
            {
                "name": str(one.name),
                "files": one.files,
                "missing": one.missing,
                "corrupt": one.corrupt,
                "paths": [
                    {
                        "path": hurt.path.decode(errors="backslashreplace"),
                        "digest": hurt.digest.hex(),
                        "wrong": hurt.wrong.value,
                    }
                    for hurt in one.hurt
                ],
            }
            for one in report.damage
        ],
    }


def _judge(report: CheckReport) -> None:
    """The worst that was found decides the exit code: corrupt, missing, not a list."""
    kinds = list(report.wrong.values())
    if corrupt := sum(kind is not Wrong.MISSING for kind in kinds):
        raise Corrupt(
            f"{corrupt} blobs are corrupt, {len(kinds) - corrupt} missing",
            hint="remove the corrupt ones, and push or build those services again",
        )
    if kinds:
        raise BlobMissing(
            f"{len(kinds)} blobs are missing", hint="push or build those services again"
        )
    if report.unreadable:
        raise BadList(f"{len(report.unreadable)} lists", 0, "cannot be read")


@store_command.command("gc")
@click.option("--delete", is_flag=True, help="Delete it; else only say what would be.")
@click.option("--dry-run", is_flag=True, help="Delete nothing: what happens without --delete.")
@click.option("--grace", default="24h", metavar="AGE", help="What is younger stays [24h].")
@click.option(
    "--settle",
    type=click.FloatRange(min=0),
    default=SETTLE,
    help=f"Seconds until all see what one wrote [{SETTLE:g}]; a minute for NFS.",
)
@as_json_option
@settings_options
def gc_command(
    settings: Settings, delete: bool, dry_run: bool, grace: str, settle: float, as_json: bool
) -> None:
    """Find, and with --delete delete, what no list, no tag and no push names.

    A list that lies elsewhere than in the store protects nothing: tag what must stay.
    """
    if delete and dry_run:
        raise click.UsageError("--delete and --dry-run exclude each other")
    if not settle < GC_LAPSE:  # nan as well
        raise click.UsageError(f"--settle must be less than {GC_LAPSE:g}: a gc may not stand still")
    age = parse_age(grace, "`--grace`")
    end_as_interrupted()
    with phases("store gc", _number) as step:
        work = partial(gc, grace=age, delete=delete, settle=settle, step=step)
        report = run_async(partial(_with_store, settings, work))
    if as_json:
        show_json(
            {
                name: value._asdict() if isinstance(value, Amount) else value
                for name, value in report._asdict().items()
            }
        )
        return
    _show_gc(report, grace)


def _show_gc(report: GcReport, grace: str) -> None:
    verb = "deleted" if report.deleted else "would delete"
    click.echo(f"{verb} {_amount(report.blobs, 'blobs')} that none of {report.lists} lists names")
    if report.leftovers.files:
        click.echo(f"{verb} {_amount(report.leftovers, 'leftovers')} of pushes that did not end")
    if report.young.files:
        click.echo(f"kept {_amount(report.young, 'blobs')} that are younger than {grace}")
    if not report.deleted and (report.blobs.files or report.leftovers.files):
        click.echo("nothing was deleted: --delete does it")


def _amount(amount: Amount, what: str) -> str:
    return f"{amount.files} {what} ({size_text(amount.size)})"


# --- lists -------------------------------------------------------------------------------


@store_command.command("copy")
@click.argument("names", nargs=-1, metavar="SERVICE...")
@click.option("--all", "everything", is_flag=True, help="Every list and every tag.")
@click.option("--to", required=True, metavar="URL", help="The store to copy to.")
@as_json_option
@settings_options
def copy_command(
    settings: Settings, names: tuple[str, ...], everything: bool, to: str, as_json: bool
) -> None:
    """Copy lists and what of their blobs the other store lacks; NAME@TAG copies a tag."""
    if bool(names) == everything:
        raise click.UsageError("name the services to copy, or give --all")
    refs = [_service(settings, name) for name in names] or None
    end_as_interrupted()
    with phases("store copy", _number) as step:
        report = run_async(partial(_copy, settings, store_url(to), refs, step))
    if as_json:
        failed = {str(name): str(error) for name, error in report.failed.items()}
        copied = [str(name) for name in report.copied]
        show_json(report._asdict() | {"copied": copied, "failed": failed})
    else:
        click.echo(
            f"{len(report.copied)} lists copied; {report.blobs} blobs"
            f" ({size_text(report.size)}) were new, {report.present} already there"
        )
    errors = list(report.failed.values())
    for error in errors[:-1]:
        show_error(error)
    if errors:
        raise errors[-1]


async def _copy(
    settings: Settings,
    to: str,
    names: Sequence[ServiceName] | None,
    step: Callable[[str, int, int], None],
) -> CopyReport:
    async with (
        _closing(open_stores(settings.store, namespace=settings.namespace)) as source,
        _closing(open_to_write(settings, [to], given=True)) as target,
    ):
        chosen = await source.lists() if names is None else names
        return await copy(source, target, chosen, step=step, waiting=_waiting)


@store_command.command("tag")
@click.argument("service", metavar="SERVICE[@TAG]")
@click.argument("tag", required=False)
@click.option("--current", is_flag=True, help="Make SERVICE@TAG the current list: go back to it.")
@settings_options
def tag_command(settings: Settings, service: str, tag: str | None, current: bool) -> None:
    """Keep the list of SERVICE under TAG; with --current, go back to the list of a tag."""
    source = _service(settings, service)
    bare = source._replace(tag=None)
    if current == (tag is not None):
        raise click.UsageError("give a TAG, or --current")
    if current and source.tag is None:
        raise BadName(f"`{source}` is the current list", hint="name the tag: SERVICE@TAG --current")
    target = bare if tag is None else tagged(bare, tag)
    end_as_interrupted()
    work = partial(retag, source=source, target=target, waiting=_waiting)
    run_async(partial(_with_stores, settings, work))
    click.echo(f"{target} is now the list that {source} is")


@store_command.command("untag")
@click.argument("service", metavar="SERVICE@TAG")
@settings_options
def untag_command(settings: Settings, service: str) -> None:
    """Remove a tag; the current list and all blobs stay."""
    name = _service(settings, service)
    if name.tag is None:
        raise BadName(f"`{name}` has no tag", hint="`aysfs store rm` removes a current list")
    run_async(partial(_with_stores, settings, lambda store: store.delete_list(name)))
    click.echo(f"{name}: removed; its blobs stay until `aysfs store gc`")


@store_command.command("rm")
@click.argument("service")
@settings_options
def rm_command(settings: Settings, service: str) -> None:
    """Remove the current list of SERVICE; its tags and all blobs stay."""
    name = _service(settings, service)
    if name.tag is not None:
        raise BadName(f"`{name}` is a tag", hint="`aysfs store untag` removes it")
    tags = run_async(partial(_with_stores, settings, partial(_remove, name=name)))
    stay = f"the tags {', '.join(tags)} and all blobs stay, blobs" if tags else "its blobs stay"
    click.echo(f"{name}: removed; {stay} until `aysfs store gc`")


async def _remove(store: Store, name: ServiceName) -> list[str]:
    """Remove a list; the tags that the service has besides."""
    tags = [one.tag for one in await store.lists() if one._replace(tag=None) == name and one.tag]
    try:
        await store.delete_list(name)
    except ListMissing as error:
        if tags:
            error.hint = f"it has the tags {', '.join(tags)}: `aysfs store untag` removes one"
        raise
    return tags


# --- shared ------------------------------------------------------------------------------


@asynccontextmanager
async def _closing(store: Store) -> AsyncIterator[Store]:
    try:
        yield store
    finally:
        await store.aclose()


async def _with_stores(settings: Settings, work: Callable[[Store], Awaitable[T]]) -> T:
    """All that are configured, as one: what is done to a list is done in every replica."""
    async with _closing(open_stores(settings.store, namespace=settings.namespace)) as store:
        return await work(store)


async def _with_store(settings: Settings, work: Callable[[Store], Awaitable[T]]) -> T:
    """The one that is looked at, or cleaned: each has blobs, leftovers and a clock of its own."""
    if len(settings.store) > 1:
        raise BadConfig("this is done to one store at a time", hint="name it: --store URL")
    return await _with_stores(settings, work)


def _service(settings: Settings, text: str) -> ServiceName:
    ref = settings.ref(text)
    if not isinstance(ref, ServiceName):
        raise BadName(f"`{text}` is a file, not a service")
    return ref


def _tell_unreadable(unreadable: dict[str, str]) -> None:
    for name, reason in unreadable.items():
        note(f"aysfs: {name} cannot be read: {reason}")


def _waiting(line: str) -> None:
    note(f"aysfs: {line}")


def _number(value: float) -> str:
    return f"{value:.0f}"
