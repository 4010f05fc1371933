"""Records of builds: what comes back is what was written, and nonsense is no record."""

import json
from dataclasses import replace

import pytest

from aysfs.build.record import Inputs, Record, from_json

INPUTS = Inputs(
    template="ab" * 32,
    image="sha256:12",
    revisions={"https://host/repo master": "f" * 40},
    dependencies={"jumpscale__base": "cd" * 32},
    epoch=1_400_000_000,
)
RECORD = Record(
    service="jumpscale__redis",
    inputs=INPUTS,
    list_sha256="ef" * 32,
    entries=9,
    size=3_200_000,
    image_name="debian:12",
    server="Docker on this host",
    started=1_700_000_000.5,
    seconds=61.9,
)


def test_a_record_comes_back() -> None:
    assert from_json(RECORD.to_json()) == RECORD


@pytest.mark.parametrize(
    "change",
    [
        {"template": "00"},
        {"image": "sha256:13"},
        {"revisions": {}},
        {"dependencies": {"jumpscale__base": "00"}},
        {"epoch": None},
    ],
)
def test_every_input_counts(change: dict[str, object]) -> None:
    assert replace(INPUTS, **change).digest() != INPUTS.digest()  # type: ignore[arg-type] # any field


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"{}",
        b'{"version": 2}',
        json.dumps({"version": 1, "inputs": {"other": 1}}).encode(),
        RECORD.to_json().replace(b'"entries"', b'"entrees"'),
    ],
)
def test_nonsense_is_no_record(data: bytes) -> None:
    assert from_json(data) is None
