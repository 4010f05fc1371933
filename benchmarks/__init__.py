"""Figures of the mount and of publishing, against ext4 in the same run: ``make bench``.

``trees`` makes what is measured, ``host`` knows the machine and runs the readers (``walk.c``),
``rows`` holds one function a figure, ``run`` prints them. Cold starts over a slow network have a
table of their own, ``make bench-wan``: ``wan`` holds its rows, ``network`` makes the line
(``delay.c``), ``services`` the trees. Nothing here is imported by ``aysfs``.
"""
