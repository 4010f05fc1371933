"""Addresses of stores."""

from pathlib import Path

import pytest

from aysfs.errors import BadConfig, StoreTrouble
from aysfs.names import parse_name
from aysfs.store.open import open_store


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}", "{}/"])
def test_a_directory(form: str, tmp_path: Path) -> None:
    assert open_store(form.format(tmp_path)).label == str(tmp_path)


def test_a_url_is_decoded_and_a_path_is_not() -> None:
    assert open_store("file:///a%20b").label == "/a b"
    assert open_store("/a%20b").label == "/a%20b"


@pytest.mark.parametrize(
    "url", ["", "gopher://host/x", "file://host/x", "file://", "file:///x?namespace=y"]
)
def test_what_is_no_store(url: str) -> None:
    with pytest.raises(BadConfig) as caught:
        open_store(url)
    assert "file:///path" in (caught.value.hint or "")


async def test_namespace_and_creation(tmp_path: Path) -> None:
    with pytest.raises(StoreTrouble):
        await open_store(str(tmp_path / "new")).missing({})
    store = open_store(str(tmp_path / "new"), namespace="mine", create=True)
    await store.put_list(parse_name("a__b"), [b"x"])
    assert (tmp_path / "new/mine/md/a__b.flist").read_bytes() == b"x"
