"""Figures of the mount and of publishing, against ext4 in the same run: ``make bench``.

``trees`` makes what is measured, ``host`` knows the machine and runs the readers (``walk.c``),
``rows`` holds one function a figure, ``run`` prints them. Nothing here is imported by ``aysfs``.
"""
