"""Which of many blobs a bucket holds, in as few questions as it takes.

Serves the object store, which does the jobs in its threads. Few on a shelf are asked for singly;
many are looked for in the shelf's listing, and the rest singly where that is too long.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby

from aysfs.digest import Digest
from aysfs.store import layout
from aysfs.store.objects_bucket import Bucket

Job = Callable[[], None]
Place = Callable[[str, Digest], str]

# So many blobs asked for on one shelf are worth a page of its listing: that takes about as long
# as eight questions for one object.
LISTED = 8


class Search:
    """One question about many blobs: once all ``jobs`` are done, ``held`` is the answer."""

    def __init__(
        self,
        bucket: Bucket,
        namespace: str,
        blobs: Mapping[Digest, int],
        places: Sequence[Place],
    ) -> None:
        self.held: set[Digest] = set()
        self._bucket = bucket
        self._namespace = namespace
        self._sizes = blobs
        self._places = places

    def jobs(self) -> list[Job]:
        found: list[Job] = []
        for first, group in groupby(sorted(self._sizes), key=lambda digest: digest[0]):
            asked = list(group)
            if len(asked) >= LISTED:
                found.append(partial(self._look, first, asked))
            else:
                found += [partial(self._ask, one) for one in asked]
        return found

    def _ask(self, digest: Digest) -> None:
        for place in self._places:
            found = self._bucket.head(place(self._namespace, digest))
            if found is not None and found.size == self._sizes[digest]:
                self.held.add(digest)
                return

    def _look(self, first: int, asked: Sequence[Digest]) -> None:
        wanted = set(asked)
        complete = True
        for place in layout.shelves(self._namespace, first)[: len(self._places)]:
            pages = len(asked) // LISTED
            for page in self._bucket.list(place):
                for path, size, _ in page:
                    digest = layout.parse_blob_file(path.rpartition("/")[2], first)
                    if digest in wanted and self._sizes[digest] == size:
                        self.held.add(digest)
                pages -= 1
                if pages <= 0 and len(page) >= self._bucket.page:
                    complete = False
                    break
        if not complete:
            for digest in wanted - self.held:
                self._ask(digest)
