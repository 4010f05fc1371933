"""Tars as build containers send them, and made member by member."""

import io
import subprocess
import tarfile
from pathlib import Path

from aysfs.digest import Digest
from aysfs.flist.entry import Entry, Header
from aysfs.names import parse_name
from aysfs.publish.stream import TarTree

NAME = parse_name("jumpscale__base")
PACK = (
    "tar",
    "--create",
    "--file=-",
    "--format=posix",
    "--pax-option=delete=atime,delete=ctime",
    "--xattrs",
    "--xattrs-include=user.*",
    "--xattrs-include=security.capability",
    "--numeric-owner",
    "--sort=name",
)


def packed(directory: Path, name: str = ".") -> bytes:
    """What GNU tar makes of a directory, named as below /."""
    command = [*PACK, "-C", str(directory), "--transform=s,^\\.,./b,S", "--", name]
    return subprocess.run(command, check=True, capture_output=True).stdout


def gathered(
    *archives: tuple[bytes, bytes], epoch: int | None = None, put: list[list[Digest]] | None = None
) -> tuple[Header, list[Entry]]:
    """The list of archives, each with the path that was asked for."""
    batches: list[list[Digest]] = [] if put is None else put
    tree = TarTree(lambda batch: batches.append([one.digest for one in batch]), epoch)
    for archive, top in archives:
        tree.add(io.BytesIO(archive).read, top)
    return tree.finish()


def made(*members: tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of these members; regular ones hold zeros."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return out.getvalue()


def member(name: str, type: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = type
    for key, value in fields.items():
        setattr(info, key, value)
    return info
