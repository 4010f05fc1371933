"""Lists of files: bytes <-> entries. Pure; serves every floor above.

``FlistReader`` reads any generation, ``write_flist`` and ``write_classic`` write, ``diff``
compares. The format is docs/format.md.
"""

from aysfs.flist.diff import Change, ChangeKind, diff
from aysfs.flist.entry import Entry, Ext, Header, Kind
from aysfs.flist.lineage import Loss, Resolve, host_id, write_classic
from aysfs.flist.percent import encode_path
from aysfs.flist.text import FlistReader, find_entry, write_flist

__all__ = [
    "Change",
    "ChangeKind",
    "Entry",
    "Ext",
    "FlistReader",
    "Header",
    "Kind",
    "Loss",
    "Resolve",
    "diff",
    "encode_path",
    "find_entry",
    "host_id",
    "write_classic",
    "write_flist",
]
