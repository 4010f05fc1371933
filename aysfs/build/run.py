"""Builds: from templates to published lists, each in a container, dependencies first.

Serves ``aysfs build`` and scripts. A build blocks in a worker thread, since templates are
ordinary Python; the event loop owns the order, the servers and the stores. Whatever happens, a
container that is not kept on purpose is removed, and a list appears only after its blobs.
"""

import hashlib
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import trio

from aysfs.build.capture import capture
from aysfs.build.checkout import Checkouts
from aysfs.build.container import Container, Docker
from aysfs.build.images import ensure_image
from aysfs.build.log import BuildLog, Echo
from aysfs.build.placing import place
from aysfs.build.plan import Planned
from aysfs.build.recipe import BuildSpec
from aysfs.build.record import Inputs, Record, from_json, log_note, record_note
from aysfs.build.service import Service
from aysfs.build.template import Template
from aysfs.errors import AysfsError, BadRecipe, BuildFailed, Missing, ServerTrouble, first_of
from aysfs.flist.entry import Entry, Header
from aysfs.flist.text import write_flist
from aysfs.names import ServiceName
from aysfs.publish.stream import TarTree, publish_list, put_missing
from aysfs.store.protocol import BlobSource, Store

_CLEAN_UP = 60  # seconds that removing a container may take when a build was interrupted
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


class Built(NamedTuple):
    """How one service ended: published now, or found unchanged."""

    template: Template
    record: Record
    is_new: bool
    server: Docker
    log: Path


Prove = Callable[[Docker, str, Template, Path, BuildLog], None]
"""Checks a build before it is published: the engine and image that it was made with, its
template, and its list as a file, whose blobs are in the stores. Raises VerifyFailed."""


class Builder:
    """Builds services for some stores, with a folder for logs."""

    def __init__(
        self,
        stores: Sequence[Store],
        checkouts: Checkouts,
        logs: Path,
        options: Options,
        echo: Echo,
        prove: Prove | None = None,
    ) -> None:
        if not stores:
            raise BadRecipe("a build needs a store to put its files into")
        self.stores = stores
        self.checkouts = checkouts
        self.options = options
        self.prove = prove
        self._logs = logs
        self._echo = echo

    async def build(
        self, planned: Mapping[ServiceName, Planned], servers: Sequence[Docker]
    ) -> list[Built]:
        """Build all of it, as many at a time as there are servers; in the order of the plan.

        The first failure ends the others.
        """
        waiting = dict(planned)
        built: dict[ServiceName, Built] = {}
        idle, free = trio.open_memory_channel[Docker](len(servers))
        for server in servers:
            idle.send_nowait(server)
        ended = trio.Event()

        async def one(name: ServiceName, server: Docker) -> None:
            nonlocal ended
            what = planned[name]
            needs = {need: built[need].record for need in what.needs}
            built[name] = await self._build_one(what.template, server, needs)
            idle.send_nowait(server)
            ended.set()
            ended = trio.Event()

        try:
            async with idle, free, trio.open_nursery() as nursery:
                while waiting:
                    name = _next(waiting, built)
                    if name is None:
                        await ended.wait()
                        continue
                    server = await free.receive()
                    del waiting[name]
                    nursery.start_soon(one, name, server)
        except* AysfsError as group:
            raise first_of(group) from None
        return [built[name] for name in planned]

    async def _build_one(
        self, template: Template, server: Docker, needs: Mapping[ServiceName, Record]
    ) -> Built:
        job = _Job(self, template, server, needs, self._logs / f"{template.name}.log", self._echo)
        try:
            return await trio.to_thread.run_sync(job.run, abandon_on_cancel=True)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(_CLEAN_UP):
                await trio.to_thread.run_sync(job.clean_up, abandon_on_cancel=True)


class _Job:
    """One build, in one worker thread. ``clean_up`` may come from another one, at any time."""

    def __init__(
        self,
        builder: Builder,
        template: Template,
        server: Docker,
        needs: Mapping[ServiceName, Record],
        log: Path,
        echo: Echo,
    ) -> None:
        self._builder = builder
        self._template = template
        self._name = template.name
        self._spec = _spec(template)
        self._server = server
        self._needs = needs
        self._log = log
        self._echo = echo
        self._container: Container | None = None
        self._is_over = False

    def run(self) -> Built:
        """Everything, from the image to the record."""
        options = self._builder.options
        started = time.time()
        with BuildLog(self._log, self._echo) as log:
            image = ensure_image(
                self._server,
                self._spec,
                self._builder.checkouts,
                log,
                build=options.image_build,
                push=options.image_push,
            )
            inputs = self._inputs(image)
            record = None if options.force else self._unchanged(inputs)
            if record is not None:
                log.note(f"{self._name}: nothing changed since it was built")
                return Built(self._template, record, False, self._server, self._log)
            record = self._build(image, inputs, started, log)
        self._keep_log()
        return Built(self._template, record, True, self._server, self._log)

    def _build(self, image: str, inputs: Inputs, started: float, log: BuildLog) -> Record:
        tree = TarTree(self._put, epoch=self._builder.options.epoch)
        self._run_template(self._start(image, log), tree, log)
        header, entries = tree.finish()
        with tempfile.TemporaryDirectory(prefix="aysfs-build-") as folder:
            file = Path(folder) / f"{self._name}.flist"
            sha256 = _write(file, header, entries)
            if self._builder.prove is not None:
                self._builder.prove(self._server, image, self._template, file, log)
        with log.step(f"publish {self._name}"):
            stores = self._builder.stores
            trio.from_thread.run(publish_list, stores, self._name, header, entries)
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
        )
        trio.from_thread.run(_write_notes, stores, record_note(self._name), record.to_json())
        log.note(f"{self._name}: {record.entries} entries in {record.seconds:.1f} s")
        return record

    def _start(self, image: str, log: BuildLog) -> Container:
        with log.step(f"start a container of {self._spec.image}"):
            container = self._server.start(
                image,
                name=f"aysfs-build-{self._name}",
                service=str(self._name),
                network=self._builder.options.network,
            )
            self._container = container
        if self._is_over:  # interrupted while it started: whoever cleans up has been here
            container.remove()
        return container

    def _run_template(self, container: Container, tree: TarTree, log: BuildLog) -> None:
        """What the template's ``build`` does, with every failure of it told by name."""
        options, template = self._builder.options, self._template
        service = Service(
            template,
            container,
            log,
            place=lambda: self._place(container, log),
            upload=lambda path: capture(container, path, tree, log.note),
            environment={} if options.epoch is None else {"SOURCE_DATE_EPOCH": str(options.epoch)},
        )
        try:
            template.actions().build(service)
        except AysfsError as error:
            if options.debug:
                error.hint = f"look into it: {container.entry}"
            raise
        except Exception as error:  # the edge to templates, which are anybody's Python
            raise BuildFailed(
                f"{template.folder}: its `build` raised {type(error).__name__}: {error}",
                output="".join(traceback.format_exception(error)),
            ) from error

    def _place(self, container: Container, log: BuildLog) -> list[tuple[str, str]]:
        template = self._template
        return place(
            template.git_exports, template.web_exports, container, self._builder.checkouts, log.note
        ).pairs

    def _inputs(self, image: str) -> Inputs:
        return Inputs(
            template=self._template.digest(),
            image=image,
            revisions={
                f"{export.url} {export.branch or ''} {export.revision or ''}".strip(): (
                    self._builder.checkouts.latest(export)
                )
                for export in self._template.git_exports
            },
            dependencies={str(name): record.list_sha256 for name, record in self._needs.items()},
            epoch=self._builder.options.epoch,
        )

    def _unchanged(self, inputs: Inputs) -> Record | None:
        """The record of a build with these inputs, when every store has it and its list."""
        found: list[Record | None] = [
            trio.from_thread.run(_published, store, self._name) for store in self._builder.stores
        ]
        first = found[0]
        if first is None or first.inputs.digest() != inputs.digest():
            return None
        return first if all(one == first for one in found) else None

    def _put(self, batch: list[BlobSource]) -> None:
        trio.from_thread.run(put_missing, self._builder.stores, batch)

    def _keep_log(self) -> None:
        data = self._log.read_bytes()[-_LOG_KEPT:]
        trio.from_thread.run(_write_notes, self._builder.stores, log_note(self._name), data)

    def clean_up(self) -> None:
        """Remove the container; with ``debug`` it stays, unless the build was interrupted."""
        self._is_over = True
        container = self._container
        if container is not None and not self._builder.options.debug:
            try:
                container.remove()
            except ServerTrouble as error:  # the build has its own outcome to tell
                self._echo(f"aysfs: {error}\n".encode())


def _next(
    waiting: Mapping[ServiceName, Planned], built: Mapping[ServiceName, Built]
) -> ServiceName | None:
    """The first that needs nothing that is not built yet."""
    return next(
        (name for name, what in waiting.items() if all(need in built for need in what.needs)), None
    )


def _spec(template: Template) -> BuildSpec:
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


async def _published(store: Store, name: ServiceName) -> Record | None:
    """The record beside a list, when the list is still the one that it speaks of."""
    try:
        record = from_json(await store.read_note(record_note(name)))
        opened = await store.open_list(name)
    except Missing:
        return None
    with opened.file:
        sha256 = hashlib.sha256(await trio.to_thread.run_sync(opened.file.read)).hexdigest()
    return record if record is not None and record.list_sha256 == sha256 else None


async def _write_notes(stores: Iterable[Store], note: str, data: bytes) -> None:
    for store in stores:
        await store.write_note(note, data)
