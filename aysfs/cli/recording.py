"""Running a command against a service, with what it reads first of every blob noted.

Serves ``aysfs profile record``. The service is mounted for the length of the run and for the
command: root's in a mount namespace that nobody else is in, an ordinary user's in a folder that
nobody else knows. So whatever this host has mounted goes on undisturbed.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from aysfs.cli.config import Settings
from aysfs.cli.mounting import mount_tree
from aysfs.cli.render import note
from aysfs.errors import AysfsError, BadConfig, ExitCode, MountBusy, MountFailed
from aysfs.mount import life
from aysfs.mount.options import MountOptions
from aysfs.mount.overlay.life import host_of
from aysfs.mount.recording import begin, recorded
from aysfs.mount.runtime import folder_of, is_served, read_record
from aysfs.names import ServiceName
from aysfs.profile import Read

_ENDING = 10.0  # seconds that a command which was interrupted may take to end
_FLUSHING = 120.0  # seconds that a daemon may take, on a disk that has much to do


class CommandFailed(AysfsError):
    """The command that was to be recorded; ``ended`` is what a shell would say of it."""

    def __init__(self, message: str, ended: int) -> None:
        super().__init__(message)
        self.ended = ended


class CommandMissing(AysfsError):
    """The command cannot be started."""

    code = ExitCode.MISSING


class Recording(NamedTuple):
    """What is run against what. Without ``point`` root's command finds the service at its base."""

    settings: Settings
    name: ServiceName
    base: bytes
    command: Sequence[str]
    point: Path | None = None
    engine: str = "auto"
    output: IO[bytes] | None = None
    """Where the command's standard output goes; None for where ours goes."""

    def run(self) -> list[Read]:
        """Run the command once. CommandFailed when it does not end well."""
        with ExitStack() as stack:
            own = Path(stack.enter_context(_own_folder()))
            directory = None
            if self.point is None and os.geteuid() != 0:
                point = directory = own / "mnt"
                point.mkdir()
            else:
                point = stack.enter_context(_there(self._place()))
            options = self._options(life.check_point(point), own / "run")
            control = stack.enter_context(_mounted(options))
            number = begin(control)
            self._run(options.point, directory)
            return recorded(control, number)

    def _place(self) -> Path:
        if self.point is not None:
            return self.point
        if self.base == b"/":
            raise BadConfig(
                f"the base of {self.name} is `/`, where nothing can be mounted",
                hint="--at DIR says where the command finds it",
            )
        return Path(os.fsdecode(self.base))

    def _options(self, point: str, runtime: Path) -> MountOptions:
        settings = self.settings
        return MountOptions(
            services=(str(self.name),),
            point=point,
            store=settings.store,
            cache=str(settings.cache),
            runtime=str(runtime),
            log=str(settings.logs / f"record-{self.name}.log"),
            namespace=settings.namespace,
            engine=self.engine,
            trust_images=settings.trust_images,
            deadline=settings.deadline,
            cache_size=settings.cache_size,
            keep_free=settings.keep_free,
            record=True,
        )

    def _run(self, root: str, directory: Path | None) -> None:
        words = " ".join(self.command)
        environment = {**os.environ, "AYSFS_ROOT": root}
        try:
            process = subprocess.Popen(
                self.command, cwd=directory, env=environment, stdout=self.output
            )
        except OSError as error:
            raise CommandMissing(f"`{words}` cannot be run: {error.strerror}") from error
        try:
            code = process.wait()
        finally:
            _end(process)
        if code:
            ended = code if code > 0 else 128 - code
            how = f"ended with {code}" if code > 0 else f"was killed by signal {-code}"
            raise CommandFailed(f"`{words}` {how}, nothing is recorded", ended)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """A command that outlives our wait, which was interrupted."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _own_folder() -> "tempfile.TemporaryDirectory[str]":
    # A mount that could not be taken down says so itself.
    return tempfile.TemporaryDirectory(prefix="aysfs-record-", ignore_cleanup_errors=True)


@contextmanager
def _there(point: Path) -> Iterator[Path]:
    """A directory, made for the length of the block where there is none."""
    with ExitStack() as undo:
        for folder in [*reversed(point.parents), point]:
            if not folder.is_dir():
                _make(folder)
                undo.callback(_remove, folder)
        yield point


def _make(folder: Path) -> None:
    try:
        folder.mkdir()
    except OSError as error:
        raise MountFailed(
            f"{folder} cannot be made: {error.strerror}", hint="--at DIR says where to mount"
        ) from error


def _remove(folder: Path) -> None:
    with suppress(OSError):  # somebody has put something there
        folder.rmdir()


@contextmanager
def _mounted(options: MountOptions) -> Iterator[Path]:
    """A mount that records, in a runtime directory of its own; the socket of its daemon."""
    folder = folder_of(Path(options.runtime), options.point)
    mount_tree(options)
    try:
        yield folder / "control"
    finally:
        record = read_record(folder)
        try:
            life.unmount_kernel(options.point)
        except MountBusy:
            note("aysfs: a process that the command left behind used the service, which is gone")
            life.unmount_kernel(options.point, lazy=True)
            if record is not None:
                with suppress(ProcessLookupError):
                    os.kill(record.pid, signal.SIGTERM)
        _wait_for_end(folder, host_of(options).folder)


def _wait_for_end(*folders: Path) -> None:
    """Until no daemon has one of these folders, which go next: it may flush a cache first."""
    deadline = time.monotonic() + _FLUSHING
    while any(map(is_served, folders)) and time.monotonic() < deadline:
        time.sleep(0.02)
