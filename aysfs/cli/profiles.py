"""``aysfs profile``: what the start of a service reads, recorded and shown."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from aysfs.cli.config import Settings, settings_options
from aysfs.cli.one_store import as_json_option, closing, service_of, waiting, with_stores
from aysfs.cli.progress import phases
from aysfs.cli.recording import CommandFailed, Recording
from aysfs.cli.render import show_error, show_json
from aysfs.cli.session import end_as_interrupted, run_async, view
from aysfs.cli.writing import open_to_write
from aysfs.digest import Digest
from aysfs.errors import AysfsError, Missing
from aysfs.kernel import mounts
from aysfs.names import ServiceName
from aysfs.profile import Profile, Read, of_runs
from aysfs.publish.packing import Step
from aysfs.publish.packs import PackReport, add_packs
from aysfs.publish.profile import publish_profile
from aysfs.sizes import size_text
from aysfs.store.claims import store_time
from aysfs.store.profile import read_profile, write_profile
from aysfs.store.protocol import Store
from aysfs.tree import TreeView


@click.group("profile")
def profile_command() -> None:
    """Record and show what the start of a service reads."""


# --- record ------------------------------------------------------------------------------


@profile_command.command("record", context_settings={"ignore_unknown_options": True})
@click.argument("service")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD...")
@click.option(
    "--at",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where CMD finds the service; root's default is the list's base.",
)
@click.option(
    "--runs", type=click.IntRange(1, 1000), default=1, show_default=True, help="How often to run."
)
@click.option("--fresh", is_flag=True, help="Forget what was recorded before.")
@click.option("--no-publish", is_flag=True, help="Write the profile to standard output instead.")
@click.option("--no-packs", is_flag=True, help="Leave the packs of SERVICE as they are.")
@click.option(
    "--engine", type=click.Choice(["auto", "overlay", "fuse"]), default="auto", show_default=True
)
@settings_options
@click.pass_context
def record_command(
    ctx: click.Context,
    settings: Settings,
    service: str,
    command: tuple[str, ...],
    at: Path | None,
    runs: int,
    fresh: bool,
    no_publish: bool,
    no_packs: bool,
    engine: str,
) -> None:
    """Run CMD against SERVICE, and publish which blobs it read first, and when.

    For root SERVICE is mounted where its list says, and only CMD sees that; for others in a new
    folder, which is the working directory of CMD. AYSFS_ROOT names it. What was recorded before is
    merged with it, and the packs of SERVICE are made by it. CMD must end by itself; when it fails,
    its exit code is ours.
    """
    name = service_of(settings, service)
    end_as_interrupted()
    if os.geteuid() == 0:
        mounts.be_private()
    tree = run_async(partial(view, settings, [service])).tree
    if not no_publish:
        run_async(partial(_try, settings, name, fresh))
    output = sys.stderr.buffer if no_publish else None
    recording = Recording(settings, name, tree.base, command, at, engine, output)
    try:
        taken = [recording.run() for _ in range(runs)]
    except CommandFailed as failed:
        show_error(failed)
        ctx.exit(failed.ended)
    profile = of_runs(taken)
    if not profile.reads:
        raise AysfsError(
            f"`{' '.join(command)}` read nothing of {name}", hint="AYSFS_ROOT is where it is"
        )
    if no_publish:
        sys.stdout.buffer.write(profile.to_bytes())
        return
    profile = run_async(partial(_publish, settings, name, profile, fresh, tree))
    shown = _Shown(name, profile, tree)
    click.echo(f"{name}: {shown.summary()}")
    if not no_packs:
        with phases("pack") as step:
            click.echo(f"{name}: {run_async(partial(_pack, settings, name, step)).text}")


async def _try(settings: Settings, name: ServiceName, fresh: bool) -> None:
    """Raise now what would be raised when the command has run: it may have taken an hour."""
    async with closing(_store(settings)) as store:
        if not fresh:
            await read_profile(store, name)
        await store_time(store)  # writes, and takes it away


async def _publish(
    settings: Settings, name: ServiceName, new: Profile, fresh: bool, tree: TreeView
) -> Profile:
    """Merge with what is there, and keep it; what the list has no more goes."""
    async with closing(_store(settings)) as store:
        if fresh:
            await write_profile(store, name, new)
            return new
        return await publish_profile(store, name, new, _digests(tree))


async def _pack(settings: Settings, name: ServiceName, step: Step) -> PackReport:
    async with closing(_store(settings)) as store:
        return await add_packs(store, name, step=step, waiting=waiting)


def _store(settings: Settings) -> Store:
    return open_to_write(settings, settings.store, given=settings.store_is_given)


# --- show --------------------------------------------------------------------------------


@profile_command.command("show")
@click.argument("service")
@as_json_option
@settings_options
def show_command(settings: Settings, service: str, as_json: bool) -> None:
    """Show what the start of SERVICE reads: files in their order, times, bytes, and the share."""
    name = service_of(settings, service)
    tree = run_async(partial(view, settings, [service])).tree
    profile = run_async(partial(with_stores, settings, partial(read_profile, name=name)))
    if profile is None:
        raise Missing(
            f"{name} has no profile",
            hint=f"`aysfs profile record {service} -- CMD...` makes one",
        )
    shown = _Shown(name, profile, tree)
    if as_json:
        show_json(shown.values())
        return
    for line in shown.lines():
        sys.stdout.buffer.write(line + b"\n")
    sys.stdout.flush()
    click.echo(f"{name}: {shown.summary()}")


@dataclass
class _Shown:
    """A profile, seen through a list."""

    name: ServiceName
    profile: Profile
    tree: TreeView

    def __post_init__(self) -> None:
        self.paths = _paths(self.tree, self.profile)
        self.reads = [one for one in self.profile.reads if one.digest in self.paths]
        self.unknown = len(self.profile.reads) - len(self.reads)
        self.size = sum(one.size for one in self.reads)

    def summary(self) -> str:
        whole = self.tree.total_size
        last = max((one.milliseconds for one in self.reads), default=0) / 1e3
        text = (
            f"{len(self.reads)} files, {size_text(self.size)} of {size_text(whole)}"
            f" ({self.share:.1%}), the last after {last:.2f} s, {self.profile.runs} runs"
        )
        return f"{text}; {self.unknown} are of another version" if self.unknown else text

    @property
    def share(self) -> float:
        return self.size / self.tree.total_size if self.tree.total_size else 0.0

    def lines(self) -> Iterator[bytes]:
        """One a file, in the order of the reads, its path as the list has it."""
        for one in self.reads:
            seconds, runs = one.milliseconds / 1e3, f"{one.runs}/{self.profile.runs}"
            text = f"{seconds:9.3f} s {size_text(one.size):>10} {runs:>7}  "
            yield text.encode() + self.paths[one.digest]

    def values(self) -> dict[str, object]:
        """For scripts."""
        return {
            "service": str(self.name),
            "runs": self.profile.runs,
            "files": len(self.reads),
            "bytes": self.size,
            "service_bytes": self.tree.total_size,
            "share": self.share,
            "unknown": self.unknown,
            "reads": [self._values(one) for one in self.reads],
        }

    def _values(self, one: Read) -> dict[str, object]:
        return {
            "path": os.fsdecode(self.paths[one.digest]),
            "md5": one.digest.hex(),
            "size": one.size,
            "milliseconds": one.milliseconds,
            "runs": one.runs,
        }


def _digests(tree: TreeView) -> set[Digest]:
    """Every blob that a list has."""
    nodes = (node for _, node in tree.paths() if tree.is_regular(node))
    return {tree.digest(tree.inode(node)) for node in nodes}


def _paths(tree: TreeView, profile: Profile) -> dict[Digest, bytes]:
    """Of the blobs that a list has, the path that comes first."""
    wanted = {one.digest for one in profile.reads}
    found: dict[Digest, bytes] = {}
    for path, node in tree.paths():
        if tree.is_regular(node):
            digest = tree.digest(tree.inode(node))
            if digest in wanted:
                found.setdefault(digest, path)
    return found
