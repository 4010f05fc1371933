"""The text of profiles: written as read, damages refused, runs merged."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest as digests
from aysfs.digest import Digest
from aysfs.errors import BadProfile
from aysfs.profile import (
    LIMIT,
    MAX_MILLISECONDS,
    MAX_SIZE,
    MOST_RUNS,
    Profile,
    Read,
    merge,
    of_runs,
    parse,
)

A, B, C = (digests.of(name) for name in (b"a", b"b", b"c"))
TEXT = (
    b"#profile 1\n#runs 3\n"
    b"0cc175b9c0f1b6a831c399e269772661|1|0|3\n"
    b"92eb5ffee6ae2fec3ad71c777531578f|4096|12|1\n"
    b"4a8a08f09d37b73795649038408b5f33|9|12|2\n"
)
PROFILE = Profile(3, (Read(A, 1, 0, 3), Read(B, 4096, 12, 1), Read(C, 9, 12, 2)))
CASES = 4000
GOLDEN = Path(__file__).parent.parent / "golden/profiles/three-runs.profile"


def test_the_text_of_a_profile() -> None:
    assert PROFILE.to_bytes() == TEXT
    assert parse(TEXT, "x") == PROFILE
    assert PROFILE.size == 1 + 4096 + 9


def test_the_golden_profile_is_read_and_written_as_it_is() -> None:
    data = GOLDEN.read_bytes()
    found = parse(data, GOLDEN.name)
    assert found.to_bytes() == data
    assert [one.runs for one in found.reads] == [3, 1, 2, 3]
    assert [one.milliseconds for one in found.reads] == [0, 12, 12, MAX_MILLISECONDS]


def test_a_profile_of_nothing() -> None:
    assert parse(b"#profile 1\n#runs 1\n", "x") == Profile(1, ())


def test_keys_of_later_versions_are_passed_over() -> None:
    assert parse(TEXT.replace(b"#runs 3\n", b"#kernel 6.18\n#runs 3\n#x y z\n"), "x") == PROFILE


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (b"", 1, "middle of a line"),
        (TEXT[:-1], 5, "middle of a line"),
        (b"#profile 2\n" + TEXT[11:], 1, "does not begin with `#profile 1`"),
        (b"\n" + TEXT, 1, "does not begin"),
        (b"#profile 1\n", 0, "of how many runs"),
        (b"#profile 1\n" + TEXT[19:], 2, "no `#runs` before the reads"),
        (TEXT.replace(b"#runs 3", b"#runs 0"), 2, "`#runs` without a number"),
        (TEXT.replace(b"#runs 3", b"#runs 03"), 2, "`#runs` without a number"),
        (TEXT.replace(b"#runs 3", b"#runs 9999999"), 0, "of how many runs"),
        (TEXT.replace(b"#runs 3", b"#runs 3\n#runs 3"), 3, "`#runs` for the second time"),
        (TEXT.replace(b"#runs 3", b"#runs 2"), 3, "no `md5|size"),
        (TEXT + b"#key value\n", 6, "not before the reads"),
        (TEXT.replace(b"0cc1", b"0CC1"), 3, "no `md5|size"),
        (TEXT.replace(b"0cc1", b"0cc"), 3, "no `md5|size"),
        (TEXT.replace(b"|1|0|3", b"|-1|0|3"), 3, "no `md5|size"),
        (TEXT.replace(b"|1|0|3", b"|01|0|3"), 3, "no `md5|size"),
        (TEXT.replace(b"|1|0|3", b"|1|0|0"), 3, "no `md5|size"),
        (TEXT.replace(b"|1|0|3", b"|1|0|3|"), 3, "no `md5|size"),
        (TEXT.replace(b"|1|0|3", b"|1|0|3\r"), 3, "no `md5|size"),
        (TEXT.replace(b"|1|0|3", b"|%d|0|3" % (MAX_SIZE + 1)), 3, "no `md5|size"),
        (TEXT.replace(b"|1|0|3", b"|1|%d|3" % (MAX_MILLISECONDS + 1)), 3, "no `md5|size"),
        (TEXT.replace(b"|1|0|3", b"|1|13|3"), 4, "read before the one in the line above"),
        (TEXT + TEXT.splitlines(keepends=True)[2].replace(b"|0|", b"|13|"), 6, "second time"),
        (TEXT + b"\n", 6, "no `md5|size"),
        (b"#profile 1\n#runs 1\n#x " + b"y" * LIMIT + b"\n", 0, "at most 1048576"),
    ],
)
def test_a_damaged_profile_is_refused_by_line(text: bytes, line: int, reason: str) -> None:
    with pytest.raises(BadProfile, match=reason.replace("|", r"\|")) as refused:
        parse(text, "store: a__b.profile")
    assert (refused.value.source, refused.value.line) == ("store: a__b.profile", line)
    place = f"store: a__b.profile:{line}: " if line else "store: a__b.profile: "
    assert str(refused.value).startswith(place)
    assert refused.value.hint == "`aysfs profile record --fresh` makes a new one"


# --- damages -----------------------------------------------------------------------------


def check(data: bytes) -> bool:
    """Whether the bytes are a profile. Raises for everything that must not happen."""
    try:
        found = parse(data, "fuzz")
    except BadProfile as error:
        refused = error
    else:
        return check_read(found)
    assert refused.source == "fuzz"
    assert 0 <= refused.line <= data.count(b"\n") + 1
    assert refused.reason.isprintable()
    return False


def check_read(found: Profile) -> bool:
    assert parse(found.to_bytes(), "again") == found
    times = [one.milliseconds for one in found.reads]
    assert times == sorted(times)
    assert len({one.digest for one in found.reads}) == len(found.reads)
    return True


def test_damaged_profiles_are_read_or_refused() -> None:
    source = random.Random(20261126)
    accepted = 0
    for _ in range(CASES):
        changed = bytearray(TEXT)
        for _ in range(source.randint(1, 3)):
            at = source.randrange(len(changed) + 1)
            match source.randrange(4):
                case 0:
                    changed[at : at + 1] = bytes((source.randrange(256),))
                case 1:
                    del changed[at : at + source.randint(1, 40)]
                case 2:
                    changed[at:at] = source.choice([b"|", b"\n", b"#", b"0", b"9" * 20, b"#runs 2"])
                case _:
                    lines = changed.splitlines(keepends=True)
                    del lines[source.randrange(len(lines))]
                    changed = bytearray(b"".join(lines))
        accepted += check(bytes(changed))
    assert 50 < accepted < CASES - 50, "the damages say nothing when all or none are refused"


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    check(data)
    check(b"#profile 1\n#runs 1\n" + data + b"\n")


# --- what holds for every profile --------------------------------------------------------

reads = st.builds(
    Read,
    st.binary(min_size=16, max_size=16).map(Digest),
    st.integers(0, MAX_SIZE),
    st.integers(0, MAX_MILLISECONDS),
)
runs = st.lists(st.lists(reads, max_size=8), min_size=1, max_size=4)
profiles = runs.map(of_runs)


@given(profiles)
def test_a_profile_survives_writing_and_reading(profile: Profile) -> None:
    assert parse(profile.to_bytes(), "x") == profile


@given(profiles, profiles)
def test_merging_keeps_every_blob_and_every_run(older: Profile, newer: Profile) -> None:
    found = merge(older, newer)
    assert found.runs == older.runs + newer.runs
    assert parse(found.to_bytes(), "x") == found
    counts = {one.digest: one.runs for one in older.reads}
    for one in newer.reads:
        counts[one.digest] = counts.get(one.digest, 0) + one.runs
    assert {one.digest: one.runs for one in found.reads} == counts


# --- runs --------------------------------------------------------------------------------


def test_a_blob_is_at_the_median_of_the_runs_that_read_it() -> None:
    found = of_runs(
        [
            [Read(A, 1, 10), Read(B, 2, 20), Read(C, 3, 30)],
            [Read(C, 3, 0), Read(A, 1, 500)],
            [Read(A, 1, 20), Read(C, 3, 40)],
        ]
    )
    assert found == Profile(3, (Read(A, 1, 0, 3), Read(B, 2, 10, 1), Read(C, 3, 20, 3)))


def test_of_a_blob_that_a_run_has_twice_the_first_read_counts() -> None:
    found = of_runs([[Read(B, 2, 1), Read(A, 1, 5), Read(A, 1, 9)]])
    assert found == Profile(1, (Read(B, 2, 0, 1), Read(A, 1, 4, 1)))


def test_a_run_of_nothing_counts_as_a_run() -> None:
    assert of_runs([[], [Read(A, 1, 5)]]) == Profile(2, (Read(A, 1, 0, 1),))


def test_blobs_of_one_moment_stay_in_the_order_of_their_reads() -> None:
    found = of_runs([[Read(C, 3, 7), Read(A, 1, 7), Read(B, 2, 7)]])
    assert [one.digest for one in found.reads] == [C, A, B]
    older = of_runs([[Read(B, 2, 7), Read(A, 1, 7)]])
    assert [one.digest for one in merge(older, found).reads] == [C, A, B]


def test_a_merged_time_has_the_weight_of_its_runs() -> None:
    older = Profile(3, (Read(A, 1, 100, 3), Read(B, 2, 200, 1)))
    newer = Profile(1, (Read(C, 3, 50, 1), Read(A, 1, 300, 1)))
    assert merge(older, newer) == Profile(
        4, (Read(C, 3, 50, 1), Read(A, 1, 150, 4), Read(B, 2, 200, 1))
    )


def test_the_number_of_runs_has_a_bound() -> None:
    most = Profile(MOST_RUNS, (Read(A, 1, 100, MOST_RUNS),))
    found = merge(most, most)
    assert found == most
    assert parse(found.to_bytes(), "x") == most


def test_what_is_not_wanted_is_left_out() -> None:
    assert PROFILE.only({A, C}.__contains__).reads == (PROFILE.reads[0], PROFILE.reads[2])


def test_a_profile_that_is_too_long_loses_its_end() -> None:
    many = tuple(Read(digests.of(b"%d" % n), n, n) for n in range(30_000))
    data = Profile(1, many).to_bytes()
    assert LIMIT - 60 < len(data) <= LIMIT
    kept = parse(data, "x").reads
    assert kept == many[: len(kept)]
