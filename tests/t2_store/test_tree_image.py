"""What the note of a published image says; test_list_notes.py asks the rest of every kind."""

import pytest

from aysfs.image import WRITER_VERSION
from aysfs.image.facts import Owner
from aysfs.store.tree_image import from_json, is_usable
from tests.list_notes import FACTS, IMAGE, LIST

PART = {"md5": "00" * 16, "sha256": "00" * 32, "size": 1}


def test_the_bytes_of_a_note() -> None:
    """Those of docs/format.md: other versions of this program read them."""
    assert (
        IMAGE.example.to_json().decode()
        == """{
 "facts": {
  "above": [
   "/",
   "/opt"
  ],
  "base": "/opt/a",
  "implied": 1,
  "named": 7,
  "owners": [],
  "trunk": "/opt/a/\\udcff"
 },
 "image": {
  "md5": "78805a221a988e79ef3f42d7c5bfd418",
  "sha256": "0101010101010101010101010101010101010101010101010101010101010101",
  "size": 5
 },
 "index": {
  "md5": "6a992d5529f459a44fee58c733255e86",
  "sha256": "0101010101010101010101010101010101010101010101010101010101010101",
  "size": 5
 },
 "list_sha256": "abababababababababababababababababababababababababababababababab",
 "mtime_ns": -5,
 "version": 1,
 "writer": 2
}
"""
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"mtime_ns": "0"},
        {"mtime_ns": 1 << 63},
        {"writer": True},
        {"image": None},
        {"image": PART | {"size": -1}},
        {"image": PART | {"size": 0}},
        {"image": PART | {"size": 1.5}},
        {"image": PART | {"md5": "../../../../../../etc/passwd...."}},
        {"image": PART, "index": PART},
        {"facts": {}},
        {"facts": FACTS.to_values() | {"trunk": "/a/../b"}},
        {"facts": FACTS.to_values() | {"base": "relative"}},
        {"facts": FACTS.to_values() | {"above": ["/a\0"]}},
        {"facts": FACTS.to_values() | {"named": float("inf")}},
        {"facts": FACTS._replace(owners=(Owner("user", "x", 1),)).to_values()},
    ],
)
def test_a_note_of_no_image_says_nothing(changes: dict[str, object]) -> None:
    assert from_json(IMAGE.altered(**changes)) is None


def test_an_image_of_another_writer_is_of_no_use() -> None:
    later = from_json(IMAGE.altered(writer=WRITER_VERSION + 1))
    assert later is not None
    assert not is_usable(later, LIST)
