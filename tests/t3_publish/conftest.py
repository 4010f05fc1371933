"""A tree of many small files, and packs to match."""

import random
from pathlib import Path

import pytest

from aysfs.pack import cut
from tests.t3_publish.packs_pushed import FILES


@pytest.fixture
def many_files(tmp_path: Path) -> Path:
    """Files that do not compress, so that packs are of known sizes."""
    top = tmp_path / "tree"
    source = random.Random(1)
    for number in range(FILES):
        file = top / f"d{number % 7}" / f"f{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(source.randbytes(source.randint(0, 2000)))
    (top / "empty").touch()
    (top / "same").write_bytes((top / "d0/f0").read_bytes())
    (top / "link").symlink_to("same")
    return top


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs a thousandth of their size, so that a small tree has many."""
    monkeypatch.setattr(cut, "LEAST", 3_000)
    monkeypatch.setattr(cut, "MOST", 24_000)
    monkeypatch.setattr(cut, "_BETWEEN", 9_000)
