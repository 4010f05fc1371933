"""Trees: what a mount shows, built from one or several lists."""

from aysfs.tree.build import Clash, TreeBuilder, choose_base
from aysfs.tree.tree import FORMATS, Tree
from aysfs.tree.view import ROOT, Attributes, Blob, Listed, Node, TreeView

__all__ = [
    "FORMATS",
    "ROOT",
    "Attributes",
    "Blob",
    "Clash",
    "Listed",
    "Node",
    "Tree",
    "TreeBuilder",
    "TreeView",
    "choose_base",
]
