"""What every test of every floor is held to, and the few fixtures they share.

- A skip is a failure unless its reason is listed in ``ALLOWED_SKIPS``: a machine without
  /dev/fuse must not look green.
- A suspicious word in captured output fails the test that caused it, unless the test said
  beforehand that it expects it (``expected_output``).
- Mounts that an earlier, interrupted session left behind are taken away first; a mount that
  this session leaves behind fails it.
- ``async def`` tests run under trio, for at most a minute; a test that hangs hard ends the run
  with the stacks of all threads.
"""

import contextlib
import faulthandler
import functools
import gc
import inspect
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import settings

pytest.register_assert_rewrite(
    "tests.cancelling",
    "tests.list_notes",
    "tests.t2_store.buckets",
    "tests.t2_store.web",
    "tests.t3_fetch.carrying",
    "tests.t3_fetch.large_reads",
    "tests.t3_publish.packs_pushed",
    "tests.t3_upkeep.noted",
    "tests.t3_upkeep.turns",
)

ALLOWED_SKIPS: tuple[str, ...] = ()  # regular expressions, matched against the whole reason

TEST_TIMEOUT = 60.0  # seconds an async test may take
THREADS_END = 10.0  # seconds for what threads do that nobody waits for
HANG_TIMEOUT = 900.0  # seconds after which any test is hopeless; one may make an image first

# The servers of tests are on loopback, where a proxy that this host has does not lead.
for _name in ("no_proxy", "NO_PROXY"):
    os.environ[_name] = ",".join(filter(None, (os.environ.get(_name), "127.0.0.1")))

# useradd, sshd and dockerd are where the PATH of an ordinary user does not lead.
os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

# A runner that a shell put in the background ignores these, and so would every command of ours.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# No bound of time on one example, which a busy machine passes, and the same examples each time:
# what is red is red again. tests/fuzz looks for others.
settings.register_profile("aysfs", deadline=None, derandomize=True)
settings.load_profile("aysfs")

SUSPICIOUS = re.compile(r"\b(error|warning|traceback|exception)\b", re.IGNORECASE)
EXPECTED = pytest.StashKey[list[re.Pattern[str]]]()
STDERR = pytest.StashKey[int]()

ExpectOutput = Callable[[str], None]


# --- judging a test's report -------------------------------------------------------------


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The words given to ``pytest.skip``."""
    where = report.longrepr
    words = where[2] if isinstance(where, tuple) else str(where)
    return words.removeprefix("Skipped: ")


def judge_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip that nobody allowed into a failure. An xfail is not a skip."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = skip_reason(report)
    if not any(re.fullmatch(allowed, reason) for allowed in ALLOWED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"skipped, and tests/conftest.py does not allow it: {reason}"


def suspicious_lines(text: str, expected: list[re.Pattern[str]]) -> list[str]:
    """Lines with a suspicious word that remain when what is expected was taken out."""
    for pattern in expected:
        text = pattern.sub("", text)
    return [line for line in text.splitlines() if SUSPICIOUS.search(line)]


def judge_output(item: pytest.Item, report: pytest.TestReport) -> None:
    """Fail a passed phase whose own output holds a suspicious word."""
    if not report.passed:
        return
    expected = item.stash.get(EXPECTED, [])
    for title, text in report.sections:
        if not title.endswith(f" {report.when}"):
            continue  # an earlier phase's, judged then
        if lines := suspicious_lines(text, expected):
            report.outcome = "failed"
            report.longrepr = "\n".join([f"not expected in: {title}", *lines])
            return


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    judge_skip(report)
    judge_output(item, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    judge_skip(report)
    return report


@pytest.fixture
def expected_output(request: pytest.FixtureRequest) -> ExpectOutput:
    """Register a regular expression of output that would otherwise fail the test."""
    patterns = request.node.stash.setdefault(EXPECTED, [])

    def register(pattern: str) -> None:
        patterns.append(re.compile(pattern, re.MULTILINE))

    return register


# --- hanging and asynchronous tests ------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Keep the real stderr at hand: descriptor 2 is captured while tests run."""
    capture = config.pluginmanager.getplugin("capturemanager")
    disabled = capture.global_and_fixture_disabled() if capture else contextlib.nullcontext()
    with disabled:
        config.stash[STDERR] = os.dup(2)


def pytest_collection_finish() -> None:
    """Leave pytest, the modules and the tests out of every later collection of garbage.

    ``same_descriptors`` has one for each test; unfrozen it took 65 ms, more than most tests.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    if STDERR in config.stash:
        os.close(config.stash[STDERR])
        del config.stash[STDERR]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    faulthandler.dump_traceback_later(HANG_TIMEOUT, file=item.config.stash[STDERR], exit=True)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def clock_among(arguments: dict[str, Any]) -> trio.abc.Clock | None:
    """A fixture that is a clock drives the test's time."""
    clocks = [value for value in arguments.values() if isinstance(value, trio.abc.Clock)]
    return clocks[0] if clocks else None


def in_trio(function: Callable[..., Any]) -> Callable[..., None]:
    """A plain function that runs the asynchronous one. Own clocks have no deadline."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        clock = clock_among(kwargs)

        async def bounded() -> None:
            with trio.fail_after(TEST_TIMEOUT) if clock is None else contextlib.nullcontext():
                await function(*args, **kwargs)

        trio.run(bounded, clock=clock)

    # inspect follows functools.wraps to the coroutine function, and hypothesis would too.
    del run.__wrapped__
    return run


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run ``async def`` tests under trio, below ``@given`` as well."""
    function = pyfuncitem.obj
    given = getattr(function, "hypothesis", None)
    if given is not None and inspect.iscoroutinefunction(given.inner_test):
        given.inner_test = in_trio(given.inner_test)
        return None
    if not inspect.iscoroutinefunction(function):
        return None
    wanted = inspect.signature(function).parameters
    in_trio(function)(**{name: pyfuncitem.funcargs[name] for name in wanted})
    return True


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Time that passes at once whenever every task sleeps."""
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.fixture
def mock_clock() -> trio.testing.MockClock:
    """Time that passes only when the test says so."""
    return trio.testing.MockClock()


def next_tick(path: Path) -> None:
    """Wait until a change of a file is dated later than this one was changed last.

    Files are dated by a clock that ticks every few milliseconds; what happens within one tick
    has one date.
    """
    probe = path.with_name(f"{path.name}.tick")
    probe.touch()
    while probe.stat().st_ctime_ns <= path.lstat().st_ctime_ns:
        os.utime(probe)
    probe.unlink()


# --- what a test may not leave behind ----------------------------------------------------


def unescape(field: str) -> str:
    """A path of /proc/self/mountinfo: blanks and backslashes are written in octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def aysfs_mounts(below: Path) -> list[Path]:
    """Mount points of this project below a directory, the innermost first.

    Overlays and tree images are always ours: no test leaves one of its own there.
    """
    found = []
    mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind = right.split(" ", 1)[0]
        if kind.startswith("fuse.aysfs") or kind in ("overlay", "erofs"):
            found.append(Path(unescape(left.split(" ")[4])))
    return sorted((path for path in found if path.is_relative_to(below)), reverse=True)


def take_away(mount: Path) -> None:
    """Unmount lazily, whatever state the mount is in."""
    for command in (["umount", "-l"], ["fusermount3", "-u", "-z"]):
        if not subprocess.run([*command, mount], capture_output=True, check=False).returncode:
            return


def alive_elsewhere(session: Path) -> bool:
    """Whether another pytest still works in this session directory (its lock holds its pid)."""
    try:
        pid = int((session / ".lock").read_text())
    except (OSError, ValueError):
        return False
    return pid != os.getpid() and Path(f"/proc/{pid}").exists()


def sweep_stale(base: Path) -> None:
    """Take away mounts of earlier sessions, and never those of one that is still running."""
    if base.name.startswith("popen-"):  # a worker's, in the directory of the session
        base = base.parent
    sessions = base.parent
    if not sessions.name.startswith("pytest-of-"):
        sessions = base  # --basetemp: nothing beside it is ours
    for mount in aysfs_mounts(sessions):
        first = mount.relative_to(sessions).parts[:1]
        if not alive_elsewhere(sessions.joinpath(*first)):
            take_away(mount)


@pytest.fixture(scope="session", autouse=True)
def no_mounts_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start without stale mounts, and fail when this session leaves one."""
    base = tmp_path_factory.getbasetemp()
    sweep_stale(base)
    yield
    left = aysfs_mounts(base)
    for mount in left:
        take_away(mount)
    assert not left, f"mounts left behind: {', '.join(map(str, left))}"


def open_descriptors() -> dict[int, str]:
    """Descriptors of this process and what they are open on.

    Python source is left out: a thread of a library that is on its way out reads it for a moment
    to put a stack into words.
    """
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return {number: what for number, what in found.items() if not what.endswith(".py")}


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """The test must end with the descriptors that it began with."""
    with same_descriptors():
        yield


@contextlib.contextmanager
def same_descriptors(*, but: str | None = None) -> Iterator[None]:
    """The block must end with the descriptors that it began with, but for one kind of them.

    A thread that a cancelled call gave up closes its own when it gets there.
    """

    def counted() -> dict[int, str]:
        found = open_descriptors()
        return {fd: of for fd, of in found.items() if but is None or not of.startswith(but)}

    before = counted()
    yield
    gc.collect()
    end = time.monotonic() + THREADS_END
    while (after := counted()).keys() != before.keys() and time.monotonic() < end:
        os.sched_yield()
    opened = [f"{fd} -> {after[fd]}" for fd in sorted(after.keys() - before.keys())]
    closed = [f"{fd} -> {before[fd]}" for fd in sorted(before.keys() - after.keys())]
    assert not opened, f"left open: {opened}"
    assert not closed, f"closed, but not the test's to close: {closed}"
