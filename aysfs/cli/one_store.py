"""What the commands on a store share: the store that is meant, names, and words on the way."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import click

from aysfs.cli.config import Settings
from aysfs.cli.render import note
from aysfs.errors import BadConfig, BadName
from aysfs.names import ServiceName
from aysfs.store.open_to_write import open_stores
from aysfs.store.protocol import Store

T = TypeVar("T")

as_json_option = click.option("--json", "as_json", is_flag=True, help="For scripts.")


@asynccontextmanager
async def closing(store: Store) -> AsyncIterator[Store]:
    try:
        yield store
    finally:
        await store.aclose()


async def with_stores(settings: Settings, work: Callable[[Store], Awaitable[T]]) -> T:
    """All that are configured, as one: what is done to a list is done in every replica."""
    async with closing(open_stores(settings.store, namespace=settings.namespace)) as store:
        return await work(store)


async def with_store(settings: Settings, work: Callable[[Store], Awaitable[T]]) -> T:
    """The one that is looked at, or cleaned: each has blobs, leftovers and a clock of its own."""
    if len(settings.store) > 1:
        raise BadConfig("this is done to one store at a time", hint="name it: --store URL")
    return await with_stores(settings, work)


def service_of(settings: Settings, text: str) -> ServiceName:
    ref = settings.ref(text)
    if not isinstance(ref, ServiceName):
        raise BadName(f"`{text}` is a file, not a service")
    return ref


def tell_unreadable(unreadable: dict[str, str]) -> None:
    for name, reason in unreadable.items():
        note(f"aysfs: {name} cannot be read: {reason}")


def waiting(line: str) -> None:
    note(f"aysfs: {line}")


def number_text(value: float) -> str:
    return f"{value:.0f}"
