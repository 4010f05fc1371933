"""Exit codes and errors: scripts rely on the numbers, so the whole table is pinned here."""

import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import aysfs
from aysfs.errors import (
    AysfsError,
    BadList,
    BlobMissing,
    ExitCode,
    ListMissing,
    Missing,
    MountBusy,
    MountFailed,
    PathMissing,
    Stalled,
    StoreTrouble,
    first_of,
)

# Add to this table; never change a line of it.
EXIT_CODES = {
    "OK": 0,
    "FAILURE": 1,
    "USAGE": 2,
    "BAD_LIST": 3,
    "MISSING": 4,
    "STORE": 5,
    "CORRUPT": 6,
    "CACHE": 7,
    "NO_SPACE": 8,
    "MOUNT": 9,
    "BUSY": 10,
    "CONFIG": 11,
    "BAD_RECIPE": 12,
    "BUILD": 13,
    "VERIFY": 14,
    "SERVER": 15,
    "IMAGE": 16,
    "INTERRUPTED": 130,
}

CODE_OF = {
    "BadName": ExitCode.USAGE,
    "BadConfig": ExitCode.CONFIG,
    "BadList": ExitCode.BAD_LIST,
    "BadProfile": ExitCode.BAD_LIST,
    "BadRecipe": ExitCode.BAD_RECIPE,
    "BadHrd": ExitCode.BAD_RECIPE,
    "Missing": ExitCode.MISSING,
    "BlobMissing": ExitCode.MISSING,
    "ListMissing": ExitCode.MISSING,
    "NoteMissing": ExitCode.MISSING,
    "PathMissing": ExitCode.MISSING,
    "TemplateMissing": ExitCode.MISSING,
    "InstanceMissing": ExitCode.MISSING,
    "Ambiguous": ExitCode.USAGE,
    "InstanceInUse": ExitCode.FAILURE,
    "ServerTrouble": ExitCode.SERVER,
    "BuildFailed": ExitCode.BUILD,
    "VerifyFailed": ExitCode.VERIFY,
    "StoreTrouble": ExitCode.STORE,
    "NoRanges": ExitCode.STORE,
    "Stalled": ExitCode.STORE,
    "Corrupt": ExitCode.CORRUPT,
    "CacheUnusable": ExitCode.CACHE,
    "NoSpace": ExitCode.NO_SPACE,
    "ImageDamaged": ExitCode.IMAGE,
    "ImageRefused": ExitCode.IMAGE,
    "PackDamaged": ExitCode.CORRUPT,
    "MountFailed": ExitCode.MOUNT,
    "MountBusy": ExitCode.BUSY,
}


def subclasses(error: type[AysfsError]) -> Iterator[type[AysfsError]]:
    for one in error.__subclasses__():
        yield one
        yield from subclasses(one)


def all_errors() -> set[type[AysfsError]]:
    """Every error of the whole package, wherever it is defined."""
    for module in pkgutil.walk_packages(aysfs.__path__, "aysfs."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return {one for one in subclasses(AysfsError) if one.__module__.startswith("aysfs.")}


def test_exit_codes_never_change() -> None:
    found = {name: int(code) for name, code in ExitCode.__members__.items()}
    assert {name: found.get(name) for name in EXIT_CODES} == EXIT_CODES
    assert found.keys() == EXIT_CODES.keys(), "a new code belongs into the table of this test"


def test_exit_codes_are_unique_and_fit_a_process() -> None:
    codes = [int(code) for code in ExitCode.__members__.values()]
    assert len(set(codes)) == len(codes)
    assert all(0 <= code <= 255 for code in codes)


def test_every_error_has_a_code_that_is_not_success() -> None:
    errors = all_errors()
    assert len(errors) >= len(CODE_OF)
    for one in errors:
        assert isinstance(one.code, ExitCode), one
        assert one.code not in (ExitCode.OK, ExitCode.INTERRUPTED), one


def test_the_code_of_every_error_of_the_ground_floor() -> None:
    ground = {one.__name__: one.code for one in all_errors() if one.__module__ == "aysfs.errors"}
    assert ground == CODE_OF


def test_an_error_is_one_line_of_facts_and_a_hint() -> None:
    error = AysfsError("what happened", hint="what to do")
    assert (str(error), error.hint) == ("what happened", "what to do")
    assert AysfsError("what happened").hint is None


def test_a_bad_list_names_file_line_and_reason() -> None:
    error = BadList("a.flist", 7, "bad md5")
    assert str(error) == "a.flist:7: bad md5"
    assert (error.source, error.line, error.reason) == ("a.flist", 7, "bad md5")


def test_line_zero_speaks_of_the_whole_list() -> None:
    assert str(BadList("a.flist", 0, "cannot be read")) == "a.flist: cannot be read"


@pytest.mark.parametrize("error", [BlobMissing, ListMissing, PathMissing])
def test_what_is_definitely_not_there_is_missing_and_no_trouble(error: type[AysfsError]) -> None:
    assert issubclass(error, Missing)
    assert not issubclass(error, StoreTrouble)


def test_trouble_is_never_missing() -> None:
    assert issubclass(Stalled, StoreTrouble)
    assert not issubclass(StoreTrouble, Missing)
    assert issubclass(MountBusy, MountFailed)


def test_the_first_error_of_a_group_is_one_of_ours_where_there_is_one() -> None:
    ours, other = StoreTrouble("x"), ValueError("y")
    group = BaseExceptionGroup("", [other, ExceptionGroup("", [ours])])
    assert first_of(group) is ours
    assert first_of(BaseExceptionGroup("", [ExceptionGroup("", [other])])) is other
    assert first_of(other) is other
