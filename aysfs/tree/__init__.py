"""Trees: what a mount shows, built from one or several lists."""

from aysfs.tree.build import Clash, TreeBuilder, choose_base
from aysfs.tree.tree import Tree
from aysfs.tree.view import ROOT, Attributes, Listed, Node, TreeView

__all__ = [
    "ROOT",
    "Attributes",
    "Clash",
    "Listed",
    "Node",
    "Tree",
    "TreeBuilder",
    "TreeView",
    "choose_base",
]
