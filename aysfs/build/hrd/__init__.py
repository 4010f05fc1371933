"""HRD, the text format of recipes and instances: bytes <-> values."""

from aysfs.build.hrd.ask import Ask, Asker
from aysfs.build.hrd.hrd import Hrd
from aysfs.build.hrd.values import Value

__all__ = ["Ask", "Asker", "Hrd", "Value"]
