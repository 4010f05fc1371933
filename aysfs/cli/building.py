"""``aysfs build``, ``verify`` and ``log``."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from aysfs.build.job import Built, Options
from aysfs.cli.config import Settings, load_settings, settings_options
from aysfs.cli.render import show_json
from aysfs.cli.session import end_as_interrupted
from aysfs.cli.toolchain import BuildRequest, build, log_of, verify_published
from aysfs.sizes import size_text


@click.command("build")
@click.argument("names", nargs=-1, required=True, metavar="SERVICE...")
@click.option("--host", "hosts", multiple=True, metavar="KEY", help="A build server; repeatable.")
@click.option("--build", "image_build", is_flag=True, help="Build the image from its repository.")
@click.option("--push", "image_push", is_flag=True, help="Push the image to its registry.")
@click.option("--tag", help="Keep each SERVICE under this tag too, e.g. 1.2.")
@click.option("--image", "tree_image", is_flag=True, help="Publish each list's tree image with it.")
@click.option("--no-packs", is_flag=True, help="Publish no packs of its small files.")
@click.option("--debug", is_flag=True, help="Keep the container of the build.")
@click.option("--force", is_flag=True, help="Build although nothing changed.")
@click.option("--no-verify", is_flag=True, help="Publish without a check in a container.")
@click.option("--store", "stores", multiple=True, metavar="URL", help="Where to; repeatable.")
@click.option("--cache", metavar="DIR", help="The cache directory (AYSFS_CACHE).")
@click.option("--network", metavar="NAME", help="The network of the container, e.g. host.")
@click.option(
    "--templates",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of templates, searched before ./build; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Report for scripts.")
def build_command(
    names: tuple[str, ...],
    hosts: tuple[str, ...],
    image_build: bool,
    image_push: bool,
    tag: str | None,
    tree_image: bool,
    no_packs: bool,
    debug: bool,
    force: bool,
    no_verify: bool,
    stores: tuple[str, ...],
    cache: str | None,
    network: str | None,
    templates: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Build each SERVICE in a container, verify it, and publish its files and list.

    What it depends on is built before it. A build whose inputs have not changed is skipped.
    """
    end_as_interrupted()
    settings = load_settings(stores, cache)
    options = Options(
        force,
        debug,
        image_build,
        image_push,
        network=network,
        tree_image=tree_image,
        packs=not no_packs,
    )
    request = BuildRequest(names, hosts, stores, templates, options, not no_verify, as_json, tag)
    report(build(settings, request), as_json=as_json)


def report(built: Sequence[Built], *, as_json: bool) -> None:
    """Say how each service ended."""
    if as_json:
        show_json([asdict(one.record) | {"new": one.is_new} for one in built])
        return
    for one in built:
        record = one.record
        what = f"{record.entries} entries, {size_text(record.size)}"
        if one.is_new:
            click.echo(f"{record.service}: {what}, built in {record.seconds:.1f} s")
        else:
            click.echo(f"{record.service}: {what}, nothing changed since it was built")


@click.command("verify")
@click.argument("service")
@click.option("--image", metavar="IMAGE", help="The image to check in; by default the build's.")
@click.option("--host", metavar="KEY", help="The build server that has the image.")
@click.option("--json", "as_json", is_flag=True, help="Report for scripts.")
@settings_options
def verify_command(
    settings: Settings, service: str, image: str | None, host: str | None, as_json: bool
) -> None:
    """Mount a built SERVICE in a container and check every file, library and its own check."""
    end_as_interrupted()
    verified = verify_published(settings, service, image, host)
    if as_json:
        show_json(verified._asdict())
        return
    libraries = "" if verified.libraries is None else f", {verified.libraries} binaries linked"
    check = f", `{verified.check}` passed" if verified.check else ""
    click.echo(
        f"{service}: {verified.entries} entries and {size_text(verified.size)} are as listed"
        f"{libraries}{check}"
    )


@click.command("log")
@click.argument("service")
@settings_options
def log_command(settings: Settings, service: str) -> None:
    """Show the log of the last build of SERVICE."""
    sys.stdout.buffer.write(log_of(settings, service))
