"""From a tree on this disk to blobs and a list in a store."""
