"""A directory on a host that is reached over SSH, as a store: OpenSSH's own SFTP, nothing else.

Serves whoever reads or publishes through the Store protocol. The layout is the directory store's,
so the same folder serves both. Reading is ``ssh_read``, writing ``ssh_write``, the connection
``ssh_link``.
"""

import trio

from aysfs.store import layout
from aysfs.store.in_threads import StoreInThreads
from aysfs.store.ssh_address import SshAddress, SshCredentials
from aysfs.store.ssh_link import CONNECT, IDLE, Link
from aysfs.store.ssh_read import Reader
from aysfs.store.ssh_write import GROUP, Writer

THREADS = 8  # each has a channel of its own, and sshd allows ten on a connection


class SshStore(StoreInThreads):
    """Blobs, lists and notes below ``path/namespace`` on a host.

    ``create`` lets a writer make the root. ``connect`` and ``idle`` are seconds: for a step of
    the login, and without a byte afterwards.
    """

    def __init__(
        self,
        address: SshAddress,
        namespace: str = layout.DEFAULT_NAMESPACE,
        *,
        create: bool = False,
        credentials: SshCredentials | None = None,
        connect: float = CONNECT,
        idle: float = IDLE,
    ) -> None:
        layout.check_namespace(namespace)
        label = str(address).rstrip("/")
        self._link = Link(address, credentials or SshCredentials(), connect=connect, idle=idle)
        root = address.path.rstrip("/")
        reader = Reader(self._link, root, namespace, label, create=create)
        writer = Writer(self._link, reader, root, namespace, label, create=create)
        super().__init__(label, reader, writer, threads=THREADS, group=GROUP)

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._link.close)
