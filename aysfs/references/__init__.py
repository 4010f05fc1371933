"""References: which blobs of a list a blob names, in the order in which it will read them.

Pure; serves who makes packs. A Python module names the modules it imports, a program its libraries
and its loader, a script its interpreter. A reference is a hint: a wrong one, and one that is not
found, cost time and nothing else. So what cannot be understood is passed over without a word.
"""

from aysfs.references.resolve import MOST, Blob, References

__all__ = ["MOST", "Blob", "References"]
