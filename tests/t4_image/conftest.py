"""Images in files, checked by erofs-utils and mounted by the kernel."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aysfs.image import write_image
from aysfs.tree import Tree


def compile_into(tree: Tree, folder: Path) -> Path:
    """The image of a tree; its index lies beside it."""
    image = folder / "tree.erofs"
    with open(image, "w+b") as file, open(folder / "tree.index", "w+b") as index:
        write_image(tree, file, index)
    return image


def check_with_tools(image: Path) -> str:
    """What `fsck.erofs` and `dump.erofs` say of an image that both accept."""
    said = ""
    for command in (["fsck.erofs", "-d3"], ["dump.erofs", "-s", "-S"]):
        done = subprocess.run([*command, image], capture_output=True, text=True, check=False)
        said += done.stdout + done.stderr
        assert done.returncode == 0, said
        assert "corrupt" not in said.lower(), said
    return said


@contextmanager
def mounted(image: Path, point: Path) -> Iterator[Path]:
    """The image at a mount point, by the kernel's own EROFS."""
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "erofs", "-o", "ro,loop", image, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)
