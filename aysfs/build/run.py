"""Builds: which service when, and on which server.

Serves ``aysfs build`` and scripts. Owns the order and the servers; each build is a ``Job``.
"""

from collections.abc import Mapping, Sequence

import trio

from aysfs.build.engine import Docker
from aysfs.build.job import Built, Job, Workshop, spec_of
from aysfs.build.plan import Planned
from aysfs.build.record import Record
from aysfs.build.template import Template
from aysfs.errors import BadRecipe, first_of
from aysfs.names import ServiceName

_CLEAN_UP = 60  # seconds that removing what an interrupted build made may take


async def build(
    workshop: Workshop, planned: Mapping[ServiceName, Planned], servers: Sequence[Docker]
) -> list[Built]:
    """Build all of it, as many at a time as there are servers; in the order of the plan.

    The first failure ends the others.
    """
    if not workshop.stores:
        raise BadRecipe("a build needs a store to put its files into")
    for what in planned.values():
        spec_of(what.template)  # before anything is built
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
        built[name] = await _build_one(workshop, what.template, server, needs)
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
    # Not `except*`: Python 3.11.2, Debian's, would wrap what is raised.
    except BaseExceptionGroup as group:
        raise first_of(group) from None
    return [built[name] for name in planned]


async def _build_one(
    workshop: Workshop,
    template: Template,
    server: Docker,
    needs: Mapping[ServiceName, Record],
) -> Built:
    job = Job(workshop, template, server, needs)
    try:
        return await trio.to_thread.run_sync(job.run, abandon_on_cancel=True)
    finally:
        job.stop()
        with trio.CancelScope(shield=True), trio.move_on_after(_CLEAN_UP):
            await trio.to_thread.run_sync(job.clean_up, abandon_on_cancel=True)
            await job.let_go()


def _next(
    waiting: Mapping[ServiceName, Planned], built: Mapping[ServiceName, Built]
) -> ServiceName | None:
    """The first that needs nothing that is not built yet."""
    return next(
        (name for name, what in waiting.items() if all(need in built for need in what.needs)), None
    )
