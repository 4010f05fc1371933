"""``aysfs store``: make, look at and copy stores, and name their lists."""

import importlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

import click

from aysfs.cli.config import Settings, settings_options, store_url
from aysfs.cli.one_store import (
    as_json_option,
    closing,
    number_text,
    service_of,
    tell_unreadable,
    waiting,
    with_store,
    with_stores,
)
from aysfs.cli.progress import phases
from aysfs.cli.render import show_error, show_json
from aysfs.cli.session import end_as_interrupted, run_async
from aysfs.cli.writing import open_to_write
from aysfs.errors import BadName, ListMissing
from aysfs.names import ServiceName, tagged
from aysfs.publish.packs import add_packs
from aysfs.sizes import size_text
from aysfs.store.claims import store_time
from aysfs.store.open_to_write import open_stores
from aysfs.store.protocol import Store
from aysfs.upkeep.copy import CopyReport, copy, retag
from aysfs.upkeep.info import info, read_lists
from aysfs.upkeep.lists import remove_list

# The commands of other modules, which are imported when they are run, or their help is shown.
_ELSEWHERE = {"check": "checking", "gc": "checking", "passwd": "serving", "serve": "serving"}


class _StoreTable(click.Group):
    """Imports a module when its command is run, or the help shown: the web server takes long."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"aysfs.cli.{_ELSEWHERE[cmd_name]}")
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command


@click.group("store", cls=_StoreTable)
def store_command() -> None:
    """Look after a store that services are published in."""


@store_command.command("init")
@click.argument("url", required=False)
@settings_options
def init_command(settings: Settings, url: str | None) -> None:
    """Make the store URL, or the configured one; one that is there stays as it is."""
    where = settings.store if url is None else (store_url(url),)
    label, count = run_async(partial(_init, settings, where))
    click.echo(f"{label}: ready, {count} lists in the namespace {settings.namespace}")


async def _init(settings: Settings, urls: Sequence[str]) -> tuple[str, int]:
    async with closing(open_to_write(settings, urls, given=False)) as store:
        await store_time(store)  # writing is what makes it
        return store.label, len(await store.lists())


@store_command.command("info")
@as_json_option
@settings_options
def info_command(settings: Settings, as_json: bool) -> None:
    """How much the store holds, and how much of it twice without deduplication."""
    with phases("store info", number_text) as step:
        found = run_async(partial(with_store, settings, partial(info, step=step)))
    if as_json:
        show_json(found._asdict() | {"saved": found.saved})
        return
    click.echo(f"services     {found.services}, and {found.tags} tags")
    click.echo(
        f"entries      {found.entries} in all lists, {size_text(found.listed_size)} of files"
    )
    click.echo(f"blobs        {found.blobs}, {size_text(found.size)}")
    click.echo(f"chunks       {size_text(found.indexes_size)} of digests of large files' parts")
    click.echo(f"images       of {found.images} lists, {size_text(found.images_size)}")
    click.echo(f"packs        of {found.packed} lists, {size_text(found.packed_size)}")
    click.echo(f"saved        {size_text(found.saved)} by deduplication")
    click.echo(f"nobody's     {found.unnamed} blobs, {size_text(found.unnamed_size)}")
    click.echo(f"leftovers    {found.leftovers} files, {size_text(found.leftovers_size)}")
    if found.pushes or found.gc:
        click.echo(f"at work      {found.pushes} pushes{' and a gc' if found.gc else ''}")
    tell_unreadable(found.unreadable)


@store_command.command("ls")
@as_json_option
@settings_options
def ls_command(settings: Settings, as_json: bool) -> None:
    """Every service and tag, with entries, size and age."""
    with phases("store ls", number_text) as step:
        lists, unreadable = run_async(partial(with_store, settings, partial(read_lists, step=step)))
    if as_json:
        rows = [
            one._asdict()
            | {"name": str(one.name), "image": one.image_size, "packs": one.packs_size}
            for one in lists
        ]
        show_json({"lists": rows, "unreadable": unreadable})
        return
    width = max((len(str(one.name)) for one in lists), default=0)
    for one in lists:
        moment = datetime.fromtimestamp(one.mtime_ns // 1_000_000_000, UTC)
        click.echo(
            f"{one.name!s:{width}} {one.entries:9} entries {size_text(one.size):>10}"
            f"  {moment:%Y-%m-%d %H:%M}"
        )
    tell_unreadable(unreadable)


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
    refs = [service_of(settings, name) for name in names] or None
    end_as_interrupted()
    with phases("store copy", number_text) as step:
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
        closing(open_stores(settings.store, namespace=settings.namespace)) as source,
        closing(open_to_write(settings, [to], given=True)) as target,
    ):
        chosen = await source.lists() if names is None else names
        return await copy(source, target, chosen, step=step, waiting=waiting)


@store_command.command("pack")
@click.argument("names", nargs=-1, required=True, metavar="SERVICE...")
@click.option("--anew", is_flag=True, help="Make all packs again, not only what changed.")
@as_json_option
@settings_options
def pack_command(settings: Settings, names: tuple[str, ...], anew: bool, as_json: bool) -> None:
    """Make packs of the small files of each SERVICE, or SERVICE@TAG, that the store has.

    A service that was never on a host starts sooner, as many small files come at once.
    """
    refs = [service_of(settings, name) for name in names]
    end_as_interrupted()
    reports = []
    for ref in refs:
        with phases("store pack") as step:
            work = partial(add_packs, name=ref, anew=anew, step=step, waiting=waiting)
            report = run_async(partial(with_stores, settings, work))
        reports.append(report._asdict() | {"name": str(ref)})
        if not as_json:
            click.echo(f"{ref}: {report.text}")
    if as_json:
        show_json(reports)


@store_command.command("tag")
@click.argument("service", metavar="SERVICE[@TAG]")
@click.argument("tag", required=False)
@click.option("--current", is_flag=True, help="Make SERVICE@TAG the current list: go back to it.")
@settings_options
def tag_command(settings: Settings, service: str, tag: str | None, current: bool) -> None:
    """Keep the list of SERVICE under TAG; with --current, go back to the list of a tag."""
    source = service_of(settings, service)
    bare = source._replace(tag=None)
    if tag is None and source.tag is not None and not current:  # as `untag` and `rm` are written
        source, tag = bare, source.tag
    if current == (tag is not None):
        raise click.UsageError("give a TAG, or --current")
    if current and source.tag is None:
        raise BadName(f"`{source}` is the current list", hint="name the tag: SERVICE@TAG --current")
    target = bare if tag is None else tagged(bare, tag)
    end_as_interrupted()
    work = partial(retag, source=source, target=target, waiting=waiting)
    run_async(partial(with_stores, settings, work))
    click.echo(f"{target} is now the list that {source} is")


@store_command.command("untag")
@click.argument("service", metavar="SERVICE@TAG")
@settings_options
def untag_command(settings: Settings, service: str) -> None:
    """Remove a tag; the current list and all blobs stay."""
    name = service_of(settings, service)
    if name.tag is None:
        raise BadName(f"`{name}` has no tag", hint="`aysfs store rm` removes a current list")
    run_async(partial(with_stores, settings, lambda store: remove_list(store, name)))
    click.echo(f"{name}: removed; its blobs stay until `aysfs store gc`")


@store_command.command("rm")
@click.argument("service")
@settings_options
def rm_command(settings: Settings, service: str) -> None:
    """Remove the current list of SERVICE; its tags and all blobs stay."""
    name = service_of(settings, service)
    if name.tag is not None:
        raise BadName(f"`{name}` is a tag", hint="`aysfs store untag` removes it")
    tags = run_async(partial(with_stores, settings, partial(_remove, name=name)))
    stay = f"the tags {', '.join(tags)} and all blobs stay, blobs" if tags else "its blobs stay"
    click.echo(f"{name}: removed; {stay} until `aysfs store gc`")


async def _remove(store: Store, name: ServiceName) -> list[str]:
    """Remove a list; the tags that the service has besides."""
    tags = [one.tag for one in await store.lists() if one._replace(tag=None) == name and one.tag]
    try:
        await remove_list(store, name)
    except ListMissing as error:
        if tags:
            error.hint = f"it has the tags {', '.join(tags)}: `aysfs store untag` removes one"
        raise
    return tags
