"""How pushes and a gc share a store without a lock: what one counts on, the other never sweeps.

Serves whoever publishes (``Claim``) and the gc (``Sweep``). Owns the notes ``.push-<id>-<n>`` and
``.gc`` beside the lists, docs/format.md has their bytes. Needs of a store only what the protocol
has: a note that was written is read by whoever asks afterwards, and notes have the store's time.

    A push, for each batch of blobs          A gc

    P1  writes a note that names them        G1  writes `.gc`
    P2  waits while there is a living `.gc`  G2  waits SETTLE, and sees that `.gc` is its own
    P3  asks the store what is missing       G3  reads the living notes of pushes
    P4  uploads that                         G4  reads all lists
    P5  publishes its list, at the end       G5  deletes what neither names
    P6  deletes its notes                    G6  deletes `.gc`

*Why no blob of a published list is ever swept.* Take one blob, and the batch that it was in.

- P1 before G3: the gc reads the note, or it is gone already. Then P6 was before G3, so P5 was
  before G4, and the gc reads the list. That order, notes before lists, is what this rests on.
- P1 after G3, and so after G1: then P2 sees `.gc`, and P3 comes after G6. What was swept is found
  missing and uploaded; a gc that begins later finds the note.

It is the classic pair of flags: each side writes its own before it reads the other's, so at
least one of them sees the other. SETTLE is for stores that show what was written a little late
(attribute caches of network file systems): G3 then comes after every P2 that missed G1.

*Dying.* Notes of the dead must not block anybody for ever, so both kinds expire, by the times that
the store gives them and no clock of a host:

- A push's note counts for PUSH_EXPIRY after it was last written, and is written again every
  RENEW. A push that finds it has slept for longer than half of that (``LAPSE``; suspended, or
  a blob that took hours) announces everything once more, in notes of new names since a gc may
  be about to delete the old ones, and asks again what is missing before it publishes: P1 to P3.
- `.gc` counts for GC_EXPIRY and is written again every GC_RENEW. A gc deletes in small batches,
  and before each it knows that its note was written within the last GC_LAPSE, or stops. The
  margins, hours and minutes, are for what happens between looking and doing.
- A push that was cut off while its list was being written leaves its notes: the list may still
  appear. A gc that failed while it was deleting leaves `.gc`: the deletion may still go on.

Time that passes is read from CLOCK_BOOTTIME, which counts a suspended host's sleep.
"""

import contextlib
import itertools
import os
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType

import trio

from aysfs.digest import SIZE, Digest
from aysfs.errors import AysfsError, NoteMissing, StoreTrouble
from aysfs.names import ServiceName
from aysfs.store.chain import members
from aysfs.store.protocol import Store

PUSH_EXPIRY = 6 * 3600.0  # seconds by the store's clock
RENEW = 15 * 60.0
LAPSE = PUSH_EXPIRY / 2
GC_EXPIRY = 10 * 60.0
GC_RENEW = 60.0
GC_LAPSE = GC_EXPIRY / 2
SETTLE = 10.0
POLL = 2.0

GC_NOTE = ".gc"
PUSH_PREFIX = ".push-"
PUSH_MAGIC = b"aysfs push 1\n"
GC_MAGIC = b"aysfs gc 1\n"

# A note that grows is written again with every batch, so it is full long before the limit of
# 1 MiB; what is announced at once goes into as few notes as can be. In bytes.
GROWS_TO = 4096 * SIZE
MOST = 65_000 * SIZE

_CLOSING = 10.0  # seconds that taking away notes may take
_ASKED = 10_000  # blobs in one question

Clock = Callable[[], float]
Waiting = Callable[[str], None]
"""Told, once, what is waited for."""


def seconds() -> float:
    """A clock that also runs while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def unheard(_line: str) -> None:
    """For those who wait in silence."""


class BadClaim(StoreTrouble):
    """A living note of a push that cannot be read: nobody knows what that push counts on."""


class Claim:
    """What one push counts on in one store. Used by one task, closed by whoever made it."""

    def __init__(self, store: Store, *, clock: Clock = seconds, waiting: Waiting = unheard) -> None:
        self.store = store
        self._clock = clock
        self._waiting = waiting
        self._id = _new_id()
        self._notes: list[bytearray] = []  # the digests in each
        self._sizes = array("Q")  # of the same blobs, in order
        self._fresh = clock()  # since then every note has been written
        self._lapsed = False  # once, for so long that what was asked before may not be true
        self._publishing = False

    async def __aenter__(self) -> "Claim":
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def missing(self, blobs: Mapping[Digest, int]) -> set[Digest]:
        """Announce these blobs, and then ask the store which of them it lacks."""
        if not blobs:
            return set()
        await self._renew()
        first = self._take(b"".join(blobs))
        self._sizes.extend(blobs.values())
        await self._write(first)
        await self._while_swept()
        return await self.store.missing(blobs)

    async def publish(self, name: ServiceName, chunks: Iterable[bytes]) -> None:
        """Publish a list all of whose blobs were announced, and are there."""
        await self._be_sure()
        self._publishing = True
        await self.store.put_list(name, chunks)
        self._publishing = False

    async def keep_note(self, name: str, data: bytes) -> None:
        """Write a note all of whose blobs were announced, and are there."""
        await self._be_sure()
        self._publishing = True
        await self.store.write_note(name, data)
        self._publishing = False

    async def aclose(self) -> None:
        """Count on nothing any more. The notes stay where a list may still appear."""
        if self._publishing:
            return
        with trio.CancelScope(shield=True), trio.move_on_after(_CLOSING):
            while self._notes:
                with contextlib.suppress(AysfsError):  # what stays expires
                    await self.store.delete_note(self._name(len(self._notes) - 1))
                self._notes.pop()

    def _name(self, number: int) -> str:
        return f"{PUSH_PREFIX}{self._id}-{number}"

    def _take(self, digests: bytes) -> int:
        """Spread digests over the notes; the first of those that must be written."""
        if not self._notes or len(self._notes[-1]) >= GROWS_TO:
            self._notes.append(bytearray())
        first = len(self._notes) - 1
        while True:
            room = MOST - len(self._notes[-1])
            self._notes[-1] += digests[:room]
            digests = digests[room:]
            if not digests:
                return first
            self._notes.append(bytearray())

    async def _write(self, first: int) -> None:
        now = self._clock()
        for number in range(first, len(self._notes)):
            await self.store.write_note(self._name(number), PUSH_MAGIC + self._notes[number])
        if first == 0:
            self._fresh = now

    async def _be_sure(self) -> None:
        """Before anything names the blobs: nothing has taken them."""
        await self._renew()
        if self._lapsed:
            await self._ask_again()

    async def _renew(self) -> bool:
        """P1 again for all, when it is due. Did that happen?"""
        passed = self._clock() - self._fresh
        if not self._notes or passed <= RENEW:
            return False
        if passed > LAPSE:
            self._lapsed = True
            self._id = _new_id()
        await self._write(0)
        return True

    async def _while_swept(self) -> None:
        """P2, in every store of a chain: each has a gc and a clock of its own."""
        for store in members(self.store):
            await self._while_swept_in(store)

    async def _while_swept_in(self, store: Store) -> None:
        """That ``.gc`` is dead is seen by the times of it and of our own last note."""
        written = self._clock()
        told = False
        while True:
            try:
                await store.read_note(GC_NOTE)
            except NoteMissing:
                return
            times = await store.notes()
            here = times.get(self._name(len(self._notes) - 1))
            if here is None:
                raise StoreTrouble(f"{store.label}: the note of this push has gone")
            now = here + int((self._clock() - written) * 1e9)
            if GC_NOTE not in times or is_expired(times[GC_NOTE], now, GC_EXPIRY):
                return
            if not told:
                told = True
                self._waiting(f"{store.label}: waiting until a gc has ended")
            await trio.sleep(POLL)
            now_written = self._clock()
            if await self._renew():
                written = now_written

    async def _ask_again(self) -> None:
        """P2 and P3 for all; what was swept meanwhile cannot be sent from here."""
        await self._while_swept()
        everything = b"".join(self._notes)
        digests = (Digest(everything[at : at + SIZE]) for at in range(0, len(everything), SIZE))
        blobs = zip(digests, self._sizes, strict=True)
        while some := dict(itertools.islice(blobs, _ASKED)):
            if gone := await self.store.missing(some):
                raise StoreTrouble(
                    f"{self.store.label}: {len(gone)} blobs were removed while this stood still,"
                    " nothing is published",
                    hint="do it again: what is there is not sent twice",
                )
        self._lapsed = False


def _new_id() -> str:
    return os.urandom(8).hex()


def is_expired(written_ns: int, now_ns: int, seconds: float) -> bool:
    """Whether a note counts no more; both times are the store's."""
    return now_ns - written_ns > seconds * 1e9


async def store_time(store: Store) -> int:
    """What the time is in a store, in ns: that of a note which claims nothing."""
    name = f"{PUSH_PREFIX}{os.urandom(8).hex()}-0"
    await store.write_note(name, PUSH_MAGIC)
    try:
        return (await store.notes())[name]
    except KeyError:
        raise StoreTrouble(f"{store.label}: a note that was written is not listed") from None
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(_CLOSING):
            await store.delete_note(name)


async def read_claims(store: Store, now_ns: int, take: Callable[[bytes], None]) -> list[str]:
    """G3: ``take`` gets the digests of each living note, in a row. The names of the dead ones.

    A note that has gone since it was listed is of a push that has ended: its list is there.
    """
    dead = []
    for name, written_ns in (await store.notes()).items():
        if not name.startswith(PUSH_PREFIX):
            continue
        if is_expired(written_ns, now_ns, PUSH_EXPIRY):
            dead.append(name)
            continue
        try:
            data = await store.read_note(name)
        except NoteMissing:
            continue
        digests = data.removeprefix(PUSH_MAGIC)
        if len(digests) == len(data) or len(digests) % SIZE:
            raise BadClaim(
                f"{store.label}: the note `{name}` of a push cannot be read, so nothing is deleted",
                hint=f"it counts until {PUSH_EXPIRY / 3600:g} h after it was written",
            )
        take(digests)
    return dead


class Sweep:
    """The right of one gc to delete in one store, from ``begin`` to ``end``."""

    def __init__(self, store: Store, *, settle: float = SETTLE, clock: Clock = seconds) -> None:
        self.now_ns = 0  # the store's time when it began
        self._store = store
        self._settle = settle
        self._clock = clock
        self._note = GC_MAGIC + os.urandom(16).hex().encode() + b"\n"
        self._written = 0.0
        self._uncertain = False

    async def begin(self) -> None:
        """G1 and G2. StoreTrouble where another gc is at work."""
        found = await self._found()
        if found is not None:
            written_ns = (await self._store.notes()).get(GC_NOTE, 0)
            if not is_expired(written_ns, await store_time(self._store), GC_EXPIRY):
                raise self._refusal("is at work")
        await self._write()
        try:
            await trio.sleep(self._settle)
            times = await self._store.notes()
            if GC_NOTE not in times or await self._found() != self._note:
                raise self._refusal("began at the same time")
            self.now_ns = times[GC_NOTE]
        except BaseException:
            await self.end()
            raise

    async def hold(self) -> None:
        """To be called between any two steps: renews ``.gc``, or says that it was lost."""
        passed = self._clock() - self._written
        if passed > GC_RENEW and await self._found() != self._note:
            raise self._refusal("has taken over")
        if self._clock() - self._written > GC_LAPSE:
            raise StoreTrouble(
                f"{self._store.label}: this gc stood still for {passed:.0f} s and may be taken for"
                " dead, so it deletes no more",
                hint="run it again",
            )
        if passed > GC_RENEW:
            await self._write()

    async def delete(self, digests: Sequence[Digest]) -> None:
        """Delete one batch, which must be a matter of seconds."""
        await self.hold()
        try:
            await self._store.delete(digests)
        except StoreTrouble:
            self._uncertain = True
            raise

    async def end(self) -> None:
        """G6, unless a deletion may still be under way, or the note is another's."""
        if self._uncertain:
            return
        with trio.CancelScope(shield=True), trio.move_on_after(_CLOSING):
            try:
                if await self._found() == self._note:
                    await self._store.delete_note(GC_NOTE)
            except StoreTrouble:
                return  # it expires

    async def _found(self) -> bytes | None:
        try:
            return await self._store.read_note(GC_NOTE)
        except NoteMissing:
            return None

    async def _write(self) -> None:
        now = self._clock()
        await self._store.write_note(GC_NOTE, self._note)
        self._written = now

    def _refusal(self, what: str) -> StoreTrouble:
        return StoreTrouble(
            f"{self._store.label}: another gc {what}",
            hint=f"one that was killed counts for {GC_EXPIRY / 60:g} minutes",
        )
