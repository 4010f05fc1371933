"""``aysfs mount``, ``umount``, ``status``, ``reload``."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import click

from aysfs.cli.config import Settings, parse_rate, settings_options, store_url
from aysfs.errors import AysfsError, BadConfig, ExitCode, MountFailed
from aysfs.fetch.modes import MODES
from aysfs.mount import life
from aysfs.mount.client import ask
from aysfs.mount.options import MountOptions
from aysfs.mount.overlay import choice
from aysfs.mount.overlay import life as overlay
from aysfs.mount.runtime import (
    folder_of,
    is_mounted,
    read_record,
)

# Options of mount(8) and fstab that are for others, or already so.
_IGNORED = {
    *("ro", "auto", "noauto", "user", "users", "nouser", "owner", "group", "nofail", "_netdev"),
    *("defaults", "async", "silent", "loud", "norelatime", "relatime", "strictatime"),
    *("nostrictatime", "lazytime", "nolazytime", "atime", "noatime", "diratime", "nodiratime"),
    *("iversion", "noiversion", "mand", "nomand"),
}
_IGNORED_PREFIXES = ("x-", "X-", "comment=", "user=", "uhelper=", "helper=")
_OF_THE_ENGINE = {ExitCode.MOUNT, ExitCode.IMAGE, ExitCode.CONFIG}
_REFUSED = {"rw", "remount", "bind"}


@click.command("mount")
@click.argument("services", nargs=-1, required=True, metavar="SERVICE... DIR")
@click.option("--base", help="The path of the list that the mount point shows.")
@click.option(
    "--engine", type=click.Choice(["auto", "overlay", "fuse"]), default="auto", show_default=True
)
@click.option("--foreground", "-f", is_flag=True, help="Serve in this process, log to stderr.")
@click.option("--allow-other", is_flag=True, help="Let other users in (root: always so).")
@click.option(
    "--trust-images",
    multiple=True,
    metavar="URL",
    help="A store whose tree images root may mount (AYSFS_TRUST_IMAGES); repeatable.",
)
@click.option(
    "--prefetch",
    type=click.Choice(MODES),
    help="What is fetched before anybody asks (AYSFS_PREFETCH); by default what a start reads.",
)
@click.option(
    "--prefetch-rate", metavar="SIZE", help="Bytes a second of that, at most (AYSFS_PREFETCH_RATE)."
)
@click.option("-o", "options", multiple=True, metavar="OPT[,OPT]", help="Mount options.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info"
)
@settings_options
def mount_command(
    settings: Settings,
    services: tuple[str, ...],
    base: str | None,
    engine: str,
    foreground: bool,
    allow_other: bool,
    trust_images: tuple[str, ...],
    prefetch: str | None,
    prefetch_rate: str | None,
    options: tuple[str, ...],
    log_level: str,
) -> None:
    """Mount one or several SERVICEs at DIR; the first named wins where they clash.

    Returns when the tree is usable; a daemon serves it until it is unmounted.
    """
    if len(services) < 2:
        raise click.UsageError("a service and a mount point are needed")
    *names, directory = services
    fuse_options, allowed = split_options(options)
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        raise MountFailed("there is no fusermount3", hint="install fuse3")
    rate = settings.prefetch_rate
    if prefetch_rate is not None:
        rate = parse_rate(prefetch_rate, "--prefetch-rate")
    point = life.check_point(Path(directory))
    log = settings.logs / f"{folder_of(settings.runtime, point).name}.log"
    overlay.repair(settings.runtime)
    wanted = MountOptions(
        services=tuple(str(settings.ref(name)) for name in names),
        point=point,
        store=settings.store,
        cache=str(settings.cache),
        runtime=str(settings.runtime),
        log=str(log),
        namespace=settings.namespace,
        source=",".join(names),
        base=base,
        engine=engine,
        trust_images=tuple(map(store_url, trust_images)) or settings.trust_images,
        allow_other=allow_other or allowed,
        fuse_options=fuse_options,
        prefetch=prefetch or settings.prefetch,
        prefetch_rate=rate,
        deadline=settings.deadline,
        cache_size=settings.cache_size,
        keep_free=settings.keep_free,
        log_level=log_level,
    )
    record = read_record(folder_of(settings.runtime, point))
    if record is not None and record.alive and is_mounted(point):
        raise MountFailed(
            f"{', '.join(record.services)} is mounted at {point} already",
            hint=f"`aysfs umount {point}` first, or `aysfs reload {point}`",
        )
    if foreground and engine == "overlay":
        raise BadConfig("--foreground: one daemon serves all overlay mounts", hint="--engine fuse")
    if foreground:
        life.become(replace(wanted, engine="fuse", why="it serves in the foreground"))
    mount_tree(wanted)


def mount_tree(wanted: MountOptions) -> None:
    """Mount with the engine that was asked for or, with ``auto``, the best that this host has."""
    why = "asked for"
    if wanted.engine != "fuse":
        obstacle = choice.obstacle()
        if obstacle is None:
            try:
                why = "asked for" if wanted.engine == "overlay" else "this host can"
                overlay.mount(replace(wanted, engine="overlay", why=why))
                return
            except AysfsError as error:
                if wanted.engine == "overlay" or error.code not in _OF_THE_ENGINE:
                    raise
                obstacle = str(error)
                if error.code != ExitCode.CONFIG:  # which was chosen
                    click.echo(f"aysfs: not with the overlay engine: {obstacle}", err=True)
        if wanted.engine == "overlay":
            raise MountFailed(obstacle, hint="--engine fuse works anywhere")
        why = obstacle
    life.start(replace(wanted, engine="fuse", why=why))


def split_options(options: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    """What is left of ``-o`` for fuse, and whether others are let in."""
    chosen = [one for text in options for one in text.split(",") if one]
    refused = [one for one in chosen if one in _REFUSED]
    if refused:
        raise BadConfig(f"-o {refused[0]}: a mount is read-only and new")
    left = tuple(
        one
        for one in chosen
        if one not in _IGNORED and one != "allow_other" and not one.startswith(_IGNORED_PREFIXES)
    )
    return left, "allow_other" in chosen


@click.command("umount")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--lazy", "-l", is_flag=True, help="Detach now, even while it is in use.")
@settings_options
def umount_command(settings: Settings, directory: Path, lazy: bool) -> None:
    """Unmount DIRECTORY. Its daemon leaves when nobody holds anything of it any more."""
    life.stop(settings.runtime, directory, lazy=lazy)


@click.command("reload")
@click.argument("directory", type=click.Path(path_type=Path))
@settings_options
def reload_command(settings: Settings, directory: Path) -> None:
    """Read the lists of a mount again and show the newer tree.

    Open files and working directories keep the tree they have.
    """
    answer = ask(
        life.find(settings.runtime, directory).control, "reload", patience=settings.deadline + 10
    )
    what = "the newer list is shown" if answer["changed"] else "nothing has changed"
    click.echo(f"{what}: {answer['entries']} entries")
    if "xattrs" in answer:
        click.echo(f"  {answer['xattrs']}")
