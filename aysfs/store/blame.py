"""An error of the disk below a store, told as the store's trouble.

Serves the directory store. Owns nothing. It must never surround what belongs to somebody else:
an OSError of a sink or of a source is theirs, and passes through.
"""

from aysfs.errors import StoreTrouble


def trouble(path: str, error: OSError) -> StoreTrouble:
    """What to raise for an error about a path of the store."""
    return StoreTrouble(f"{path}: {error.strerror or error}")


class blaming:  # noqa: N801 - reads as a statement
    """OSError from the body becomes StoreTrouble that names the path."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            raise trouble(self._path, error) from error
