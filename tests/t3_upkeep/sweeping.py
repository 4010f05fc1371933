"""A gc of a store whose clock stands still."""

from aysfs.store.memory import MemoryStore
from aysfs.store.protocol import Store
from aysfs.upkeep.gc import GcReport, gc

HOUR = 3600 * 10**9
NOW = 10**18


def store_at(now_ns: int = NOW) -> MemoryStore:
    return MemoryStore(clock_ns=lambda: now_ns)


async def sweep(store: Store, grace: float = 0) -> GcReport:
    return await gc(store, grace=grace, delete=True, settle=0)
