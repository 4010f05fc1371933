"""``aysfs store check`` and ``gc``: what is wrong in a store, and what can go."""

from functools import partial

import click

from aysfs.cli.config import Settings, parse_age, settings_options
from aysfs.cli.one_store import as_json_option, number_text, service_of, tell_unreadable, with_store
from aysfs.cli.progress import phases
from aysfs.cli.render import show_json
from aysfs.cli.session import end_as_interrupted, run_async
from aysfs.errors import BadList, BlobMissing, Corrupt
from aysfs.sizes import size_text
from aysfs.store.claims import GC_LAPSE, SETTLE
from aysfs.upkeep.check import CheckReport, Wrong, check
from aysfs.upkeep.gc import Amount, GcReport, gc

_PATHS = 10  # of a damaged list that are shown


@click.command("check")
@click.argument("names", nargs=-1, metavar="[SERVICE]...")
@click.option("--deep", is_flag=True, help="Read and hash every blob.")
@as_json_option
@settings_options
def check_command(settings: Settings, names: tuple[str, ...], deep: bool, as_json: bool) -> None:
    """See that every blob of every list, or of the lists named, is there and of its size."""
    refs = [service_of(settings, name) for name in names] or None
    with phases("store check", number_text) as step:
        report = run_async(
            partial(with_store, settings, partial(check, names=refs, deep=deep, step=step))
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
    tell_unreadable(report.unreadable)
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
            hint="`aysfs store pack NAME --anew` mends packs; remove other corrupt blobs,"
            " and push or build those services again",
        )
    if kinds:
        raise BlobMissing(
            f"{len(kinds)} blobs are missing",
            hint="`aysfs store pack NAME` makes packs; push or build services that lack others",
        )
    if report.unreadable:
        raise BadList(f"{len(report.unreadable)} lists", 0, "cannot be read")


@click.command("gc")
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
    with phases("store gc", number_text) as step:
        work = partial(gc, grace=age, delete=delete, settle=settle, step=step)
        report = run_async(partial(with_store, settings, work))
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
