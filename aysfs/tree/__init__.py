"""Trees: what a mount shows, built from one or several lists."""

from aysfs.tree.build import Clash, TreeBuilder, choose_base
from aysfs.tree.tree import ROOT, Node, Tree

__all__ = ["ROOT", "Clash", "Node", "Tree", "TreeBuilder", "choose_base"]
