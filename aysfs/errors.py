"""Every error of the project and the exit codes they end in.

An error carries facts (what, where) and a named exit code. Words for people are added at
the edges: the command line renders one line and the hint, the mount turns errors into errno.
Types steer behaviour: ``Missing`` lets the next store be asked, ``StoreTrouble`` never does.
"""

import enum


class ExitCode(enum.IntEnum):
    """Process exit codes. Scripts rely on them: a number is never given a new meaning."""

    OK = 0
    FAILURE = 1  # anything without a code of its own, bugs included
    USAGE = 2  # click's own code for a wrong command line
    BAD_LIST = 3  # a flist or a profile is malformed
    MISSING = 4  # a service, path or blob that is definitely not there
    STORE = 5  # a store did not answer, or answered nonsense
    CORRUPT = 6  # bytes that do not match their digest
    CACHE = 7  # the cache directory cannot be used
    NO_SPACE = 8  # the cache is full and nothing can be evicted, or the disk is full
    MOUNT = 9  # a mount could not be made, changed or removed
    BUSY = 10  # the mount is in use
    CONFIG = 11  # a configuration file or value is wrong
    BAD_RECIPE = 12  # a template, its service.hrd or an instance.hrd is malformed
    BUILD = 13  # a step of a build failed, and nothing was published
    VERIFY = 14  # a build is not what its list says, or its own check failed
    SERVER = 15  # Docker or a build server cannot be reached or does not do as told
    IMAGE = 16  # a tree image is damaged, or cannot hold what a list names
    INTERRUPTED = 130  # Ctrl-C


class AysfsError(Exception):
    """Base of all expected errors: ``str()`` is one line of facts, ``hint`` the next step."""

    code = ExitCode.FAILURE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class BadName(AysfsError):
    """A service name, domain or tag that the grammar does not allow."""

    code = ExitCode.USAGE


class BadConfig(AysfsError):
    """A configuration file, environment variable or option that cannot be used."""

    code = ExitCode.CONFIG


class BadList(AysfsError):
    """A flist that breaks its format. ``line`` counts from 1; 0 speaks of the whole file."""

    code = ExitCode.BAD_LIST

    def __init__(self, source: str, line: int, reason: str) -> None:
        super().__init__(f"{source}:{line}: {reason}" if line else f"{source}: {reason}")
        self.source = source
        self.line = line
        self.reason = reason


class BadProfile(AysfsError):
    """A profile that breaks its format. ``line`` counts from 1; 0 speaks of the whole text."""

    code = ExitCode.BAD_LIST

    def __init__(self, source: str, line: int, reason: str) -> None:
        super().__init__(
            f"{source}:{line}: {reason}" if line else f"{source}: {reason}",
            hint="`aysfs profile record --fresh` makes a new one",
        )
        self.source = source
        self.line = line
        self.reason = reason


class BadRecipe(AysfsError):
    """A template or an instance that nothing can be built from."""

    code = ExitCode.BAD_RECIPE


class BadHrd(BadRecipe):
    """An HRD that breaks its format. Line and column count from 1; 0 speaks of the whole file."""

    def __init__(self, source: str, line: int, column: int, reason: str) -> None:
        place = f"{source}:{line}:{column}" if line else source
        super().__init__(f"{place}: {reason}")
        self.source = source
        self.line = line
        self.column = column
        self.reason = reason


class Missing(AysfsError):
    """Something is definitely not there: the next store may be asked."""

    code = ExitCode.MISSING


class BlobMissing(Missing):
    """A store definitely does not hold this blob."""


class ListMissing(Missing):
    """A store definitely does not hold this list."""


class NoteMissing(Missing):
    """A store definitely does not hold this note."""


class PathMissing(Missing):
    """A tree has no such path."""


class TemplateMissing(Missing):
    """No template of this name in any of the roots that were searched."""


class InstanceMissing(Missing):
    """No service instance has this key."""


class Ambiguous(AysfsError):
    """A name that fits more than one template or instance."""

    code = ExitCode.USAGE


class InstanceInUse(AysfsError):
    """A service instance that another one consumes."""


class ServerTrouble(AysfsError):
    """Docker, a build server or a registry cannot be reached, or failed on its own account."""

    code = ExitCode.SERVER


class BuildFailed(AysfsError):
    """A step of a build failed. ``output`` is what was said last, ``heard`` while it was said."""

    code = ExitCode.BUILD

    def __init__(
        self, message: str, *, output: str = "", heard: bool = False, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.output = output
        self.heard = heard


class VerifyFailed(AysfsError):
    """A mounted build is not what its list says, or its check failed. One finding a line."""

    code = ExitCode.VERIFY

    def __init__(self, message: str, findings: tuple[str, ...], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.findings = findings


class StoreTrouble(AysfsError):
    """A store failed to answer. Nothing may be concluded about what it holds."""

    code = ExitCode.STORE


class NoRanges(AysfsError):
    """A store answered, and gives no parts of a blob: all of it can be asked for."""

    code = ExitCode.STORE


class Stalled(StoreTrouble):
    """No byte arrived within the fetch deadline."""


class Corrupt(AysfsError):
    """Bytes that do not match the digest or size they were asked by."""

    code = ExitCode.CORRUPT


class CacheUnusable(AysfsError):
    """The cache directory is another user's, read-only, or not a directory."""

    code = ExitCode.CACHE


class NoSpace(AysfsError):
    """No room: the cache is at its bound and nothing can be evicted, or the disk is full."""

    code = ExitCode.NO_SPACE


class ImageDamaged(AysfsError):
    """A tree image or its index that breaks its format or is not what was written."""

    code = ExitCode.IMAGE


class PackDamaged(AysfsError):
    """A pack, its index or a frame in it that breaks its format."""

    code = ExitCode.CORRUPT


class ImageRefused(AysfsError):
    """A tree that no image can hold. The fuse engine shows it all the same."""

    code = ExitCode.IMAGE


class MountFailed(AysfsError):
    """A mount could not be made, found, changed or removed."""

    code = ExitCode.MOUNT


class MountBusy(MountFailed):
    """A mount that somebody still uses."""

    code = ExitCode.BUSY


def first_of(error: BaseException) -> BaseException:
    """The first real error inside the groups that nurseries raise; one of ours before any other."""
    if isinstance(error, BaseExceptionGroup):
        error = error.subgroup(AysfsError) or error
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
