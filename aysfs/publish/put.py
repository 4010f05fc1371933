"""Blobs into several stores at once, each of which gets what it lacks.

Serves what publishes streams and images.
"""

from collections.abc import Sequence

from aysfs.digest import Digest
from aysfs.store.claims import Claim
from aysfs.store.crew import side_by_side
from aysfs.store.protocol import BlobSource


async def put_missing(
    claims: Sequence[Claim], batch: Sequence[BlobSource], *, again: bool = False
) -> set[Digest]:
    """Let every store have the blobs of a batch; each is sent only what it lacks, or all ``again``.

    What any of them was sent.
    """
    sizes = {one.digest: one.size for one in batch}
    sent: set[Digest] = set()

    async def send(claim: Claim) -> None:
        lacking = await claim.missing(sizes)  # which claims the others
        if again:
            lacking = set(sizes)
        if lacking:
            await claim.store.put_many([one for one in batch if one.digest in lacking])
            sent.update(lacking)

    await side_by_side(claims, send)
    return sent
