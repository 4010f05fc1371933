"""``aysfs push``."""

import gc
import os
import time
from functools import partial
from pathlib import Path

import click

from aysfs.cli.config import Settings, settings_options
from aysfs.cli.progress import TextMeter, amounts, told
from aysfs.cli.render import note, show_json
from aysfs.cli.session import end_as_interrupted, run_async
from aysfs.cli.writing import open_to_write
from aysfs.errors import BadName
from aysfs.names import ServiceName
from aysfs.publish.hash_cache import HashCache
from aysfs.publish.push import PushReport, push
from aysfs.publish.send import Sent
from aysfs.sizes import size_text


@click.command("push")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="The service, e.g. jumpscale__base.")
@click.option("--tag", help="Keep the list under this tag too, e.g. 1.2.")
@click.option("--base", help="Where the tree belongs; the directory's own path by default.")
@click.option("--image", is_flag=True, help="Publish the list's tree image with it.")
@click.option(
    "--packs/--no-packs",
    default=None,
    help="Publish packs of its small files with it (AYSFS_PACKS).",
)
@click.option("--json", "as_json", is_flag=True, help="Report for scripts.")
@settings_options
def push_command(
    settings: Settings,
    directory: Path,
    name: str,
    tag: str | None,
    base: str | None,
    image: bool,
    packs: bool | None,
    as_json: bool,
) -> None:
    """Put the files of DIRECTORY into the store, only what is missing, and publish the list."""
    ref = settings.ref(name)
    if not isinstance(ref, ServiceName):
        raise BadName(f"`{name}` is a file, not a service", hint="--name takes domain__name")
    if not directory.is_dir():
        raise BadName(f"there is no directory {directory}")
    end_as_interrupted()
    report = run_async(partial(_push, settings, directory, ref, tag, base, image, packs))
    if as_json:
        packed = report.packs and report.packs._asdict()
        shown_as = {"name": str(ref), "list_md5": report.list_md5.hex(), "packs": packed}
        show_json(report._asdict() | shown_as)
        return
    shown = f"; its image is {size_text(report.image_bytes)}" if image else ""
    click.echo(
        f"{ref}{f' and @{tag}' if tag else ''}: {report.files} files, {size_text(report.bytes)};"
        f" {report.uploaded_blobs} blobs ({size_text(report.uploaded_bytes)}) were new,"
        f" {report.present_blobs} already there{shown}"
    )
    if report.packs is not None:
        click.echo(f"{ref}: {report.packs.text}")
    if report.withdrawn:
        note(f"{ref}: its packs are of the list before; `aysfs store pack {ref}` makes new ones")


async def _push(
    settings: Settings,
    directory: Path,
    name: ServiceName,
    tag: str | None,
    base: str | None,
    image: bool,
    packs: bool | None,
) -> PushReport:
    # The tree's entries live to the end, and looking through them for garbage again and again
    # costs 0.2 to 0.5 s for 60,000; this process ends when the push does.
    gc.disable()
    store = open_to_write(settings, settings.store, given=settings.store_is_given)
    try:
        with told("push") as meter:
            return await push(
                directory,
                name,
                store,
                base=None if base is None else os.fsencode(base),
                tag=tag,
                image=image,
                packs=settings.packs if packs is None else packs,
                step=lambda phase, done, of: meter(done, of, amounts(phase, done, of)),
                hash_cache=HashCache(settings.cache),
                progress=partial(_tell, meter, time.monotonic()),
                waiting=lambda line: note(f"aysfs: {line}"),
            )
    finally:
        await store.aclose()


def _tell(meter: TextMeter, began: float, sent: Sent) -> None:
    """How far a push is, in words."""
    rate = sent.bytes / max(time.monotonic() - began, 0.001)
    meter(
        sent.bytes,
        sent.of_bytes,
        f"{sent.files} of {sent.of_files} files, {size_text(sent.bytes)} ({size_text(rate)}/s),"
        f" {size_text(sent.uploaded_bytes)} new, {sent.present_blobs} there",
    )
