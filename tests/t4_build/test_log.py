"""The log of a build: all of it on disk, the end of a step in its failure."""

from pathlib import Path

import pytest

from aysfs.build.log import BuildLog
from aysfs.errors import BuildFailed


def test_everything_is_kept_and_passed_on(tmp_path: Path) -> None:
    said: list[bytes] = []
    with BuildLog(tmp_path / "x.log", said.append) as log:
        log.say(b"one\ntw")
        log.say(b"o")
        log.note("three")
    assert (tmp_path / "x.log").read_bytes() == b"".join(said) == b"one\ntwo\naysfs: three\n"


def test_the_log_before_is_kept(tmp_path: Path) -> None:
    for words in ("first", "second"):
        with BuildLog(tmp_path / "x.log", lambda _: None) as log:
            log.note(words)
    assert (tmp_path / "x.log").read_text() == "aysfs: second\n"
    assert (tmp_path / "x.log.1").read_text() == "aysfs: first\n"


def fail(log: BuildLog, output: str = "") -> None:
    with log.step("compile"):
        log.say(b"no such file\nmake: stopped")
        raise BuildFailed("`make` ended with 2", output=output, hint="a hint")


def test_a_failure_shows_the_end_of_its_step_only(tmp_path: Path) -> None:
    with BuildLog(tmp_path / "x.log", lambda _: None) as log:
        with log.step("before"):
            log.say(b"earlier\n")
        with pytest.raises(BuildFailed) as caught:
            fail(log)
    assert caught.value.output == "aysfs: compile\nno such file\nmake: stopped"
    assert caught.value.hint == "a hint"


def test_a_failure_with_output_of_its_own_keeps_it(tmp_path: Path) -> None:
    with BuildLog(tmp_path / "x.log", lambda _: None) as log, pytest.raises(BuildFailed) as caught:
        fail(log, output="what git said")
    assert caught.value.output == "what git said"
