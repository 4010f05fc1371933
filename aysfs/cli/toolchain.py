"""Builds put together: templates, build servers, stores and verification, from the settings.

Serves the commands and scripts (``aysfs.j``). The only place that knows both builds and mounts.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio

from aysfs.build.alone import alone
from aysfs.build.checkout import Checkouts
from aysfs.build.engine import Docker
from aysfs.build.instances import Services
from aysfs.build.job import Built, Options, Own, Workshop
from aysfs.build.kinds import NodeSsh
from aysfs.build.log import BuildLog
from aysfs.build.plan import Planned, plan
from aysfs.build.record import Record, from_json, log_note, record_note
from aysfs.build.run import build as build_all
from aysfs.build.server import bring_image, local, open_server
from aysfs.build.stor import address_of, log_in
from aysfs.build.template import Template, Templates, shipped
from aysfs.build.verify import Mount, Verified, tops_of, verify
from aysfs.cli.config import Settings, docker_address, source_date_epoch, store_url
from aysfs.cli.render import note
from aysfs.cli.session import run_async
from aysfs.cli.writing import open_to_write
from aysfs.errors import BadName, BadRecipe, BuildFailed, Missing, TemplateMissing
from aysfs.load import Loaded, load_tree
from aysfs.mount import life
from aysfs.mount.options import MountOptions
from aysfs.mount.recording import begin, recorded
from aysfs.mount.runtime import folder_of
from aysfs.names import ServiceName, parse_name, tagged
from aysfs.profile import Profile, of_runs
from aysfs.sizes import size_text
from aysfs.store.open import open_store, open_stores
from aysfs.store.protocol import Store
from aysfs.upkeep.copy import retag

HERE = Path("build")  # templates of the working directory


@dataclass(frozen=True)
class BuildRequest:
    """What ``aysfs build`` was asked for. Without ``hosts`` this host's Docker builds."""

    names: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    templates: tuple[Path, ...] = ()
    options: Options = field(default_factory=Options)
    verify: bool = True
    quiet: bool = False
    tag: str | None = None


def templates_of(settings: Settings, more: Sequence[Path] = ()) -> Templates:
    """The search path: those given, ./build, the configured ones, and those that we ship."""
    roots = [*more, HERE, *settings.templates, shipped()]
    return Templates(roots, default_domain=settings.default_domain)


def build(settings: Settings, request: BuildRequest) -> list[Built]:
    """Build, verify and publish; in the order of what depends on what.

    What was named gets the tag, also where nothing changed; what it depends on does not.
    """
    if request.tag is not None:
        _tagged(settings, request.names, request.tag)  # a bad one is told before anything is built
    planned = plan(templates_of(settings, request.templates), request.names)
    options = replace(request.options, epoch=source_date_epoch())
    try:
        return run_async(partial(_build, settings, replace(request, options=options), planned))
    except BuildFailed as error:
        if error.heard and not request.quiet:
            error.output = ""
        raise


async def _build(
    settings: Settings, request: BuildRequest, planned: Mapping[ServiceName, Planned]
) -> list[Built]:
    async with _stores(settings, request.stores) as stores, AsyncExitStack() as stack:
        here = ExitStack()
        stack.push(here)  # not its `close`: a failure must reach the servers, who may know why
        services = Services(settings.services)
        servers = await trio.to_thread.run_sync(_servers, services, request.hosts, here)
        prove = partial(_prove, settings, stores[0].url) if request.verify else None
        workshop = Workshop(
            [one.store for one in stores],
            Checkouts(settings.builds / "git"),
            settings.builds,
            request.options,
            _quiet if request.quiet else _echo,
            prove,
        )
        built = await build_all(workshop, planned, servers)
        if request.tag is not None:
            for name, target in _tagged(settings, request.names, request.tag):
                for one in stores:
                    await retag(one.store, name, target)
        return built


def _tagged(
    settings: Settings, names: Sequence[str], tag: str
) -> list[tuple[ServiceName, ServiceName]]:
    """Each service, and its name under the tag."""
    bare = [parse_name(name, settings.default_domain) for name in names]
    return [(name, tagged(name, tag)) for name in bare]


def verify_published(
    settings: Settings, name: str, image: str | None, host: str | None = None
) -> Verified:
    """Check the published build of a service, in a container of the image that it was built in.

    An image that is not on this host comes from the build server ``host``, else from its registry.
    """
    ref = settings.ref(name)
    if not isinstance(ref, ServiceName):
        raise BadName(f"`{name}` is a file, not a service")
    record = run_async(partial(_record, settings, ref))
    if image is None and record is None:
        raise BadRecipe(
            f"no record says in which image `{ref}` was built", hint="name one: --image IMAGE"
        )
    spec = None
    with contextlib.suppress(TemplateMissing):  # a service can be verified without its template
        spec = templates_of(settings).find(ref).verify_spec
    with ExitStack() as stack:
        docker = stack.enter_context(local(docker_address()))
        chosen = image or _image_of(docker, record)
        if docker.image_id(chosen) is None and host is not None:
            [server] = _servers(Services(settings.services), [host], stack)
            bring_image(server, docker, chosen, _echo)
        elif docker.image_id(chosen) is None:
            docker.pull(chosen, _echo)
        stack.enter_context(_alone(settings, ref))
        log = stack.enter_context(BuildLog(settings.builds / "log" / f"{ref}.verify.log", _quiet))
        mount = stack.enter_context(_mounted(settings, settings.store, str(ref), ref))
        return verify(docker, chosen, mount, spec, log)


def log_of(settings: Settings, name: str) -> bytes:
    """The log of the last build on this host, else the one that the store keeps."""
    ref = settings.ref(name)
    if not isinstance(ref, ServiceName):
        raise BadName(f"`{name}` is a file, not a service")
    path = settings.builds / "log" / f"{ref}.log"
    if path.is_file():
        return path.read_bytes()
    return run_async(partial(_note, settings, log_note(ref)))


# --- stores ------------------------------------------------------------------------------


class NamedStore(NamedTuple):
    """A store, and the address that a mount opens it by."""

    store: Store
    url: str


@asynccontextmanager
async def _stores(settings: Settings, urls: Sequence[str]) -> AsyncIterator[list[NamedStore]]:
    """The stores that a build fills: those given, else the configured one, and every client's."""
    async with AsyncExitStack() as stack:
        found: list[NamedStore] = []
        # A mount opens the address from another working directory.
        for url in dict.fromkeys(map(store_url, urls or settings.store)):
            store = open_to_write(settings, [url], given=bool(urls))
            stack.push_async_callback(store.aclose)
            found.append(NamedStore(store, url))
        if not urls:
            services = Services(settings.services)
            for client in services.list("ays_stor_client.ssh"):
                url, credentials = address_of(services, client)
                store = open_store(
                    url, namespace=settings.namespace, create=True, credentials=credentials
                )
                stack.push_async_callback(store.aclose)
                found.append(NamedStore(store, ""))
        yield found


def _image_of(docker: Docker, record: Record | None) -> str:
    """The very image of the build when it is here, else the one that has its name now."""
    if record is None:
        return ""
    identity = record.inputs.image
    return identity if docker.image_id(identity) is not None else record.image_name


async def _record(settings: Settings, name: ServiceName) -> Record | None:
    try:
        return from_json(await _note(settings, record_note(name)))
    except Missing:
        return None


async def _note(settings: Settings, note: str) -> bytes:
    store = open_stores(settings.store, namespace=settings.namespace)
    try:
        return await store.read_note(note)
    finally:
        await store.aclose()


# --- build servers -----------------------------------------------------------------------


def _servers(services: Services, hosts: Sequence[str], stack: ExitStack) -> list[Docker]:
    """The engines to build on, open until the stack closes."""
    if not hosts:
        return [stack.enter_context(local(docker_address()))]
    found = []
    for instance in dict.fromkeys(map(services.get, hosts)):  # each once, whatever it is called
        node = instance.view()
        if not isinstance(node, NodeSsh):
            raise BadRecipe(
                f"`{instance}` is no build server", hint="--host takes a `node.ssh` instance"
            )
        _, login = log_in(services, instance)
        found.append(
            stack.enter_context(
                open_server(
                    node,
                    str(instance),
                    key=login.key_file,
                    key_alone=login.alone,
                    passphrase=login.passphrase or "",
                    known_hosts=login.known_hosts,
                )
            )
        )
    return found


# --- verification ------------------------------------------------------------------------


def _prove(
    settings: Settings,
    store: str,
    server: Docker,
    image: str,
    template: Template,
    file: Path,
    log: BuildLog,
    own: Own,
) -> Profile | None:
    """Mount a list that is not published yet, and check it in a container on this host.

    What the template's own check reads of it is the profile of a start.
    """
    starts: list[str] = []
    with (
        local(docker_address()) as docker,
        _alone(settings, template.name),
        _mounted(settings, (store,), str(file), template.name, record=True) as mount,
    ):
        bring_image(server, docker, image, log.say)
        control = folder_of(settings.runtime, str(mount.point)) / "control"
        noted = mount._replace(starting=lambda: starts.append(begin(control)))
        verified = verify(docker, image, noted, template.verify_spec, log, own)
        reads = recorded(control, starts[-1]) if starts else []
    log.note(f"{template.name}: verified {verified.entries} entries, {verified.files} files")
    if not reads:
        return None
    profile = of_runs([reads])
    size = size_text(profile.size)
    log.note(f"{template.name}: its check read {len(reads)} files first ({size}): its profile")
    return profile


def _alone(settings: Settings, name: ServiceName) -> contextlib.AbstractContextManager[None]:
    """One verification of a service at a time: its container is named for the service."""
    what = f"the verification of {name}"
    return alone(
        settings.builds / "lock" / f"{name}.verify", what, lambda words: note(f"aysfs: {words}")
    )


@contextlib.contextmanager
def _mounted(
    settings: Settings,
    stores: tuple[str, ...],
    ref: str,
    name: ServiceName,
    *,
    record: bool = False,
) -> Iterator[Mount]:
    """A list mounted in a place of its own, for containers of this host."""
    with tempfile.TemporaryDirectory(
        prefix="aysfs-verify-",
        ignore_cleanup_errors=True,  # a mount that could not be taken down says so itself
    ) as folder:
        point = Path(folder) / "mnt"
        point.mkdir()
        log = settings.logs / f"verify-{name}.log"
        life.start(
            MountOptions(
                services=(ref,),
                point=str(point),
                store=stores,
                cache=str(settings.cache),
                runtime=str(settings.runtime),
                log=str(log),
                namespace=settings.namespace,
                allow_other=True,
                deadline=settings.deadline,
                cache_size=settings.cache_size,
                keep_free=settings.keep_free,
                record=record,
            )
        )
        try:
            loaded = run_async(partial(_load, settings, stores, ref))
            yield Mount(name, loaded.tree, point, tops_of(loaded))
        finally:
            life.stop(settings.runtime, point)


async def _load(settings: Settings, stores: tuple[str, ...], ref: str) -> Loaded:
    store = open_stores(stores, namespace=settings.namespace)
    try:
        return await load_tree(store, [settings.ref(ref)])
    finally:
        await store.aclose()


def _echo(data: bytes) -> None:
    """What a build says, to a person. Nothing waits in a buffer for one who went away."""
    while data:
        data = data[os.write(sys.stderr.fileno(), data) :]


def _quiet(_data: bytes) -> None:
    """For what only the log needs."""
