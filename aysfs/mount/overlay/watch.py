"""Learning that the mount table changed, without looking at it all the time.

The kernel marks the mount table's file as urgent (EPOLLPRI) when a mount comes or goes. It is
always readable as well, so trio, which waits for readable descriptors, gets an epoll set that holds
the file for its urgency alone.
"""

import os
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class TableChanges:
    """Waits for changes of this process's mount table."""

    def __init__(self, table: int, changes: select.epoll) -> None:
        self._table = table
        self._changes = changes

    async def next(self) -> None:
        """Return once the table changed since the last return (or since the beginning)."""
        await trio.lowlevel.wait_readable(self._changes.fileno())
        self._changes.poll(0)  # which makes the kernel count from here


@asynccontextmanager
async def table_changes() -> AsyncIterator[TableChanges]:
    """Watch for the length of the block."""
    table = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with select.epoll() as changes:
            changes.register(table, select.EPOLLPRI)
            yield TableChanges(table, changes)
            trio.lowlevel.notify_closing(changes.fileno())
    finally:
        os.close(table)
