"""The same work on many things side by side, by a crew of bounded size.

Serves stores and whoever moves many blobs. Here because this is the lowest floor that knows trio.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import trio

from aysfs.errors import first_of

T = TypeVar("T")


async def side_by_side(
    items: Iterable[T], work: Callable[[T], Awaitable[None]], most: int = 16
) -> None:
    """Do the work on each of the items, at most ``most`` at once.

    The first failure ends the others, and comes out as itself: not in a group.
    """
    todo = iter(items)

    async def member() -> None:
        for item in todo:  # shared: taking the next is one step without an await
            await work(item)

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(most):
                nursery.start_soon(member)
    # Not `except*`: Python 3.11.2, Debian's, would wrap what is raised.
    except BaseExceptionGroup as group:
        raise first_of(group) from None
