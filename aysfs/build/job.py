"""One build: from a template to a published list, in a worker thread of its own.

Serves ``run``. Templates are ordinary Python, so a build blocks; the event loop owns the stores,
and may stop the build at any time. Whatever happens, a container that is not kept on purpose is
removed, and a list appears only after its blobs. A service is built by one process of this host
at a time.
"""

import hashlib
import os
import tempfile
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar, TypeVarTuple

import trio

from aysfs.build.actions import ActionsBase
from aysfs.build.alone import alone
from aysfs.build.capture import capture
from aysfs.build.checkout import Checkouts
from aysfs.build.container import Container
from aysfs.build.engine import Docker
from aysfs.build.images import ensure_image
from aysfs.build.log import BuildLog, Echo
from aysfs.build.placing import PLATFORM, place
from aysfs.build.platforms import matches
from aysfs.build.published import published, write_notes
from aysfs.build.recipe import BuildSpec
from aysfs.build.record import Inputs, Record, log_note, record_note
from aysfs.build.service import Service
from aysfs.build.template import Template
from aysfs.errors import AysfsError, BadRecipe, BuildFailed, ServerTrouble, StoreTrouble
from aysfs.flist.entry import Entry, Header
from aysfs.flist.text import write_flist
from aysfs.names import ServiceName
from aysfs.profile import Profile
from aysfs.publish.frames import FrameSpool
from aysfs.publish.image import add_image
from aysfs.publish.packs import add_packs
from aysfs.publish.profile import publish_built
from aysfs.publish.put import put_missing
from aysfs.publish.stream import TarTree, publish_list
from aysfs.store.claims import Claim
from aysfs.store.packs import are_there, is_usable, read_packs
from aysfs.store.protocol import BlobSource, Store

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_UNWIND = 30  # seconds that the thread of an interrupted build has to remove what it made
_LOG_KEPT = 1 << 19  # bytes of the log, its last ones, that a store keeps


@dataclass(frozen=True)
class Options:
    """What ``aysfs build`` was told."""

    force: bool = False
    debug: bool = False
    image_build: bool = False
    image_push: bool = False
    epoch: int | None = None  # SOURCE_DATE_EPOCH: no time in the list is later
    network: str | None = None
    tree_image: bool = False  # published with the list
    packs: bool = True  # likewise


class Built(NamedTuple):
    """How one service ended: published now, or found unchanged."""

    template: Template
    record: Record
    is_new: bool
    server: Docker
    log: Path


Own = Callable[[Container], None]
"""Told of each container, so that an interruption removes it."""

Prove = Callable[[Docker, str, Template, Path, BuildLog, Own], Profile | None]
"""Checks a build before it is published: the engine and image that it was made with, its
template, and its list as a file, whose blobs are in the stores. Raises VerifyFailed. What the
start of the service read, where the check started it."""


@dataclass(frozen=True)
class Workshop:
    """What the builds of one command share. ``folder`` is for logs and locks."""

    stores: Sequence[Store]
    checkouts: Checkouts
    folder: Path
    options: Options
    echo: Echo
    prove: Prove | None = None


class Job:
    """One build, in one worker thread.

    ``stop`` comes from the event loop and then ``clean_up`` from another thread, both at any time:
    the thread's own blocks must get to their ends before the process does, or what they made,
    a mount for one, would stay.
    """

    def __init__(
        self,
        workshop: Workshop,
        template: Template,
        server: Docker,
        needs: Mapping[ServiceName, Record],
    ) -> None:
        self._workshop = workshop
        self._template = template
        self._name = template.name
        self._spec = spec_of(template)
        self._server = server
        self._needs = needs
        self._log = workshop.folder / "log" / f"{template.name}.log"
        self._echo = workshop.echo
        self._claims = [Claim(store, waiting=self._say) for store in workshop.stores]
        self._containers: list[Container] = []  # that of the build first
        self._scope: trio.CancelScope | None = None  # what the stores do for us now
        self._makes = False  # what is made from here on has to be removed
        self._ended = threading.Event()
        self._over = threading.Event()

    def run(self) -> Built:
        """Everything, from the image to the record, while no other process builds this."""
        lock = self._workshop.folder / "lock" / str(self._name)
        try:
            with alone(lock, f"the build of {self._name}", self._say, pause=self._pause):
                return self._run()
        finally:
            self._ended.set()

    def _run(self) -> Built:
        options = self._workshop.options
        started = time.time()
        with BuildLog(self._log, self._pass_on) as log:
            image = ensure_image(
                self._server,
                self._spec,
                self._workshop.checkouts,
                log,
                build=options.image_build,
                push=options.image_push,
            )
            inputs = self._inputs(image)
            record = None if options.force else self._unchanged(inputs)
            if record is not None:
                log.note(f"{self._name}: nothing changed since it was built")
                self._add_images()
                self._add_packs(record.list_sha256, log)
                log.nothing_was_built()
                return Built(self._template, record, False, self._server, self._log)
            try:
                record = self._build(image, inputs, started, log)
            except AysfsError as error:
                if str(self._name) not in str(error):  # one of several, perhaps
                    error.args = (f"{self._name}: {error}",)
                if options.debug and self._containers:
                    error.hint = f"look into it: {self._enter()}"
                raise
            if options.debug:
                log.note(f"the container is kept; look into it: {self._enter()}")
        self._keep_log()
        return Built(self._template, record, True, self._server, self._log)

    def _build(self, image: str, inputs: Inputs, started: float, log: BuildLog) -> Record:
        with ExitStack() as stack:
            packing = self._workshop.options.packs
            frames = stack.enter_context(FrameSpool()) if packing else None
            return self._build_with(frames, image, inputs, started, log)

    def _build_with(
        self, frames: FrameSpool | None, image: str, inputs: Inputs, started: float, log: BuildLog
    ) -> Record:
        put = self._put if frames is None else partial(self._put_and_pack, frames)
        tree = TarTree(put, epoch=self._workshop.options.epoch)
        actions = self._template.actions()  # what does not load needs no container
        self._run_template(actions, self._start(image, log), tree, log)
        header, entries = tree.finish()
        with tempfile.TemporaryDirectory(prefix="aysfs-build-") as folder:
            file = Path(folder) / f"{self._name}.flist"
            sha256 = _write(file, header, entries)
            profile = None
            if self._workshop.prove is not None:
                profile = self._workshop.prove(
                    self._server, image, self._template, file, log, self._own
                )
        with log.step(f"publish {self._name}"):
            if profile is not None:  # before the list, which start packs follow
                known = {entry.digest for entry in entries}
                self._await(publish_built, self._workshop.stores, self._name, profile, known)
            publish = partial(publish_list, image=self._workshop.options.tree_image, frames=frames)
            packed = self._await(publish, self._claims, self._name, header, entries)
            self._await(self.let_go)
        if packed is not None:
            log.note(packed.text)
        record = Record(
            service=str(self._name),
            inputs=inputs,
            list_sha256=sha256,
            entries=len(entries),
            size=sum(entry.size for entry in entries),
            image_name=self._spec.image,
            server=self._server.label,
            started=started,
            seconds=time.time() - started,
            verified=self._workshop.prove is not None,
        )
        try:
            stores = self._workshop.stores
            self._await(write_notes, stores, record_note(self._name), record.to_json())
        except StoreTrouble as error:
            error.hint = "the list is published; it has no record, and the next build starts anew"
            raise
        log.note(f"{self._name}: {record.entries} entries in {record.seconds:.1f} s")
        return record

    def _start(self, image: str, log: BuildLog) -> Container:
        with log.step(f"start a container of {self._spec.image}"):
            self._makes = True
            container = self._server.start(
                image,
                name=f"aysfs-build-{self._name}",
                service=str(self._name),
                network=self._workshop.options.network,
            )
            self._own(container)
        return container

    def _run_template(
        self, actions: ActionsBase, container: Container, tree: TarTree, log: BuildLog
    ) -> None:
        """What the template's ``build`` does, with every failure of it told by name."""
        options, template = self._workshop.options, self._template
        service = Service(
            template,
            container,
            log,
            place=lambda: self._place(container, log),
            upload=lambda path: capture(container, path, tree, log.note),
            environment={} if options.epoch is None else {"SOURCE_DATE_EPOCH": str(options.epoch)},
        )
        try:
            actions.build(service)
        except AysfsError:
            raise
        except (
            Exception,
            SystemExit,
        ) as error:  # the edge to templates, which are anybody's Python
            reason = str(error).strip().partition("\n")[0]
            raise BuildFailed(
                f"{template.folder}: its `build` raised {type(error).__name__}: {reason}",
                output="".join(traceback.format_exception(error)),
            ) from error

    def _place(self, container: Container, log: BuildLog) -> list[tuple[str, str]]:
        template, checkouts = self._template, self._workshop.checkouts
        exports, web_exports = template.git_exports, template.web_exports
        return place(exports, web_exports, container, checkouts, log.note).pairs

    def _inputs(self, image: str) -> Inputs:
        return Inputs(
            template=self._template.digest(),
            image=image,
            revisions={
                f"{export.url} {export.branch or ''} {export.revision or ''}".strip(): (
                    self._workshop.checkouts.latest(export)
                )
                for export in self._template.git_exports
                if matches(export.platform, PLATFORM)
            },
            dependencies={str(name): record.list_sha256 for name, record in self._needs.items()},
            epoch=self._workshop.options.epoch,
        )

    def _unchanged(self, inputs: Inputs) -> Record | None:
        """The record of a build with these inputs, when every store has all of it."""
        found: list[Record | None] = [
            self._await(published, store, self._name) for store in self._workshop.stores
        ]
        first = found[0]
        if first is None or first.inputs.digest() != inputs.digest():
            return None
        if self._workshop.prove is not None and not first.verified:
            return None
        return first if all(one == first for one in found) else None

    def _put(self, batch: list[BlobSource]) -> None:
        self._await(put_missing, self._claims, batch)

    def _put_and_pack(self, frames: FrameSpool, batch: list[BlobSource]) -> None:
        self._put(batch)
        frames.take(batch)

    def _add_packs(self, list_sha256: str, log: BuildLog) -> None:
        """What was built without packs, or has lost some, gets them of what each store has."""
        if not self._workshop.options.packs:
            return
        for store in self._workshop.stores:
            found = self._await(read_packs, store, self._name)
            whole = (
                found is not None
                and is_usable(found, list_sha256)
                and self._await(are_there, store, found)
            )
            if not whole:
                add = partial(add_packs, waiting=self._say)
                log.note(self._await(add, store, self._name).text)

    def _add_images(self) -> None:
        """What was built without an image gets one, where that is asked for."""
        if self._workshop.options.tree_image:
            add = partial(add_image, waiting=self._say)
            for store in self._workshop.stores:
                self._await(add, store, self._name)

    def _keep_log(self) -> None:
        """A copy in the stores. One that takes none has the build all the same."""
        with self._log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_KEPT))
            data = file.read(_LOG_KEPT)
        try:
            self._await(write_notes, self._workshop.stores, log_note(self._name), data)
        except StoreTrouble as error:
            self._say(f"the log stays on this host: {error}")

    # --- being interrupted -----------------------------------------------------------------

    def stop(self) -> None:
        """In the event loop: nothing more is begun, and what the stores do for it ends."""
        self._over.set()
        if self._scope is not None:
            self._scope.cancel()

    async def let_go(self) -> None:
        """In the event loop: what was put into the stores is not counted on any more."""
        for claim in self._claims:
            await claim.aclose()

    def clean_up(self) -> None:
        """Remove the containers; with ``debug`` they stay, unless the build was interrupted.

        One that was interrupted ends by this: what its thread waits for is gone.
        """
        was_interrupted = not self._ended.is_set()
        if was_interrupted or not self._workshop.options.debug:
            for container in list(self._containers):
                self._remove(container)
        if self._makes:
            self._ended.wait(_UNWIND)

    def _own(self, container: Container) -> None:
        self._containers.append(container)
        if self._over.is_set():  # while it started: whoever cleans up has been here
            self._remove(container)
        self._go_on()

    def _remove(self, container: Container) -> None:
        try:
            container.remove()
        except ServerTrouble as error:  # the build has its own outcome to tell
            self._say(str(error))

    def _enter(self) -> str:
        return self._containers[0].entry

    def _await(self, work: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
        """Let the event loop do it, unless the build is over."""

        async def bounded() -> T:
            self._go_on()
            with trio.CancelScope() as self._scope:
                return await work(*arguments)
            raise BuildFailed(f"{self._name}: interrupted")

        return trio.from_thread.run(bounded)

    def _go_on(self) -> None:
        if self._over.is_set():
            raise BuildFailed(f"{self._name}: interrupted")

    def _pause(self, seconds: float) -> None:
        self._over.wait(seconds)
        self._go_on()

    def _pass_on(self, data: bytes) -> None:
        self._go_on()
        self._echo(data)

    def _say(self, words: str) -> None:
        self._echo(f"aysfs: {words}\n".encode(errors="backslashreplace"))


def spec_of(template: Template) -> BuildSpec:
    """Where a template builds; BadRecipe when it does not say."""
    if template.build_spec is None:
        raise BadRecipe(f"{template.folder}: service.hrd has no `build = image:`")
    return template.build_spec


def _write(file: Path, header: Header, entries: Iterable[Entry]) -> str:
    """Write a list; the sha256 of it."""
    hasher = hashlib.sha256()
    with file.open("wb") as out:
        for chunk in write_flist(header, entries):
            hasher.update(chunk)
            out.write(chunk)
    return hasher.hexdigest()
