"""What the start of a service reads: digests in the order of their first read, with times.

Serves whoever records, keeps or prefetches. Owns the text of the note `<service>.profile`
(docs/format.md, "Profiles"). Pure: no I/O.

    #profile 1
    #runs 3
    <md5>|<size>|<milliseconds from the run's first read to this one>|<runs that read it>

A profile speaks of blobs and of no list, so it outlives the versions of a service. It is a hint:
whoever uses one ignores the digests that its list does not have, and trusts no size in it.
"""

import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aysfs.digest import Digest
from aysfs.errors import BadProfile

VERSION = 1
LIMIT = 1 << 20
"""Bytes of a profile: what a note may have, which it is kept as."""
MOST_RUNS = 1_000_000
MAX_SIZE = (1 << 62) - 1
MAX_MILLISECONDS = (1 << 31) - 1  # 24 days

_FIRST = b"#profile 1"
_RUNS = re.compile(rb"#runs ([1-9][0-9]{0,6})").fullmatch
_KEY = re.compile(rb"#[a-z][a-z0-9._-]* [^\0\r]*").fullmatch
_NUMBER = rb"(0|[1-9][0-9]{0,18})"
_READ = re.compile(rb"([0-9a-f]{32})\|" + rb"\|".join([_NUMBER] * 3)).fullmatch


class Read(NamedTuple):
    """The first read of a blob: how long after the first of all, and in how many runs it came."""

    digest: Digest
    size: int
    milliseconds: int
    runs: int = 1


@dataclass(frozen=True)
class Profile:
    """What was read in a number of runs, in the order of the first reads.

    Each digest is there once. Times do not fall from one read to the next.
    """

    runs: int
    reads: tuple[Read, ...]

    @property
    def size(self) -> int:
        """Bytes of all blobs."""
        return sum(one.size for one in self.reads)

    def only(self, wanted: Callable[[Digest], bool]) -> "Profile":
        """Without what is not wanted."""
        return Profile(self.runs, tuple(one for one in self.reads if wanted(one.digest)))

    def to_bytes(self) -> bytes:
        """The text. What does not fit into a note is left out from the end, where it counts least.

        ``parse`` gives the same profile again, and the same profile gives the same bytes.
        """
        lines = [_FIRST, b"#runs %d" % self.runs]
        room = LIMIT - sum(len(line) + 1 for line in lines)
        for digest, size, milliseconds, runs in self.reads:
            line = b"%s|%d|%d|%d" % (digest.hex().encode(), size, milliseconds, runs)
            room -= len(line) + 1
            if room < 0:
                break
            lines.append(line)
        return b"\n".join(lines) + b"\n"


def parse(data: bytes, source: str) -> Profile:
    """Read a profile. BadProfile says what is wrong and in which line of ``source``."""
    if len(data) > LIMIT:
        raise BadProfile(source, 0, f"{len(data)} bytes, and a profile has at most {LIMIT}")
    if not data.endswith(b"\n"):
        raise BadProfile(source, data.count(b"\n") + 1, "it ends in the middle of a line")
    lines = data.split(b"\n")[:-1]
    if lines[0] != _FIRST:
        raise BadProfile(source, 1, f"it does not begin with `{_FIRST.decode()}`")
    runs: int | None = None
    reads: dict[Digest, Read] = {}
    latest = 0
    for number, line in enumerate(lines[1:], 2):
        if line.startswith(b"#"):
            if reads or _KEY(line) is None:
                raise BadProfile(source, number, "no `#key value`, or not before the reads")
            if found := _RUNS(line):
                if runs is not None:
                    raise BadProfile(source, number, "`#runs` for the second time")
                runs = int(found[1])
            elif line.startswith(b"#runs "):
                raise BadProfile(source, number, "`#runs` without a number of runs")
            continue
        if runs is None:
            raise BadProfile(source, number, "there is no `#runs` before the reads")
        read = _read(line)
        if read is None or not read.runs <= runs:
            raise BadProfile(source, number, "no `md5|size|milliseconds|runs`")
        if read.digest in reads:
            raise BadProfile(source, number, "this blob for the second time")
        if read.milliseconds < latest:
            raise BadProfile(source, number, "it was read before the one in the line above")
        reads[read.digest], latest = read, read.milliseconds
    if runs is None or runs > MOST_RUNS:
        raise BadProfile(source, 0, "it does not say of how many runs it is")
    return Profile(runs, tuple(reads.values()))


def _read(line: bytes) -> Read | None:
    found = _READ(line)
    if found is None:
        return None
    size, milliseconds, runs = (int(found[column]) for column in (2, 3, 4))
    if size > MAX_SIZE or milliseconds > MAX_MILLISECONDS or runs < 1:
        return None
    return Read(Digest(bytes.fromhex(found[1].decode())), size, milliseconds, runs)


def of_runs(runs: Sequence[Sequence[Read]]) -> Profile:
    """The profile of at least one run, each with its reads in their order.

    A blob's time is the median of the runs that read it. Times may count from anywhere: from a
    run's first read on they can be compared with those of another.
    """
    found: defaultdict[Digest, list[Read]] = defaultdict(list)
    for run in runs:
        firsts: dict[Digest, Read] = {}
        for one in run:
            firsts.setdefault(one.digest, one)
        began = min((one.milliseconds for one in firsts.values()), default=0)
        for digest, one in firsts.items():
            found[digest].append(one._replace(milliseconds=one.milliseconds - began))
    order = [one.digest for run in runs for one in run]
    return _in_order(
        len(runs),
        order,
        {
            digest: Read(
                digest,
                reads[0].size,
                min(MAX_MILLISECONDS, round(statistics.median(one.milliseconds for one in reads))),
                len(reads),
            )
            for digest, reads in found.items()
        },
    )


def merge(older: Profile, newer: Profile) -> Profile:
    """Both as one; a blob's time is the mean of the two, each with the weight of its runs."""
    found = {one.digest: one for one in older.reads}
    for one in newer.reads:
        before = found.get(one.digest)
        if before is not None:
            runs = before.runs + one.runs
            total = before.milliseconds * before.runs + one.milliseconds * one.runs
            one = Read(one.digest, one.size, round(total / runs), min(runs, MOST_RUNS))
        found[one.digest] = one
    order = [one.digest for profile in (newer, older) for one in profile.reads]
    return _in_order(min(older.runs + newer.runs, MOST_RUNS), order, found)


def _in_order(runs: int, order: Iterable[Digest], reads: dict[Digest, Read]) -> Profile:
    """By time, and at the same time as in ``order``."""
    ranks: dict[Digest, int] = {}
    for rank, digest in enumerate(order):
        ranks.setdefault(digest, rank)
    ordered = sorted(reads.values(), key=lambda one: (one.milliseconds, ranks[one.digest]))
    return Profile(runs, tuple(ordered))
