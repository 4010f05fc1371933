"""Checkouts of git repositories: exactly the files of one commit. The only place that runs git.

Serves ``placing``. Owns a folder of bare repositories, one for each url, shared by processes: who
works in one holds its lock. Nothing that a repository says is run: no hooks, no filters, no
submodules, no transport but file, git, http(s) and ssh. A password reaches git only through
GIT_ASKPASS: it is in no url, no command line, no file, no log and no message.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn
from urllib.parse import urlsplit

from aysfs.build.private import make_private
from aysfs.build.recipe import GitExport
from aysfs.errors import BuildFailed

TIMEOUT = 3600.0  # seconds for one run of git
SILENCE = 60  # seconds without progress after which a server is given up

_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SCP = re.compile(r"(?:[^/@:]+@)?(?P<host>[^/:]+):(?!//)(?P<path>.+)")
_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.autocrlf": "false",
    "core.symlinks": "true",
    "core.fileMode": "true",
    "protocol.ext.allow": "never",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "fetch.writeCommitGraph": "false",
    "gc.auto": "0",
    "http.sslVerify": "true",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": str(SILENCE),
}
_SSH = (
    "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=30"
    f" -o ServerAliveInterval=15 -o ServerAliveCountMax={SILENCE // 15}"
)
_ASKPASS = """#!/bin/sh
case $1 in
    Username*) printf '%s\\n' "$AYSFS_GIT_LOGIN" ;;
    *) printf '%s\\n' "$AYSFS_GIT_PASSWD" ;;
esac
"""


class Checkout(NamedTuple):
    """The files of a commit in a folder of this host, to be read and never changed.

    ``time`` is when the commit was made. ``code_path`` is ``<hosttype>/<account>/<repo>``, which
    names the repository below /opt/code.
    """

    folder: Path
    commit: str
    time: int
    code_path: str


class Checkouts:
    """All repositories below a folder. ``ssh_config`` overrules the user's own file."""

    def __init__(
        self, folder: Path, *, ssh_config: Path | None = None, timeout: float = TIMEOUT
    ) -> None:
        self.folder = folder.absolute()
        self._ssh = f"{_SSH} -F '{ssh_config}'" if ssh_config else _SSH
        self._timeout = timeout

    @contextlib.contextmanager
    def open(self, export: GitExport) -> Iterator[Checkout]:
        """What an export is taken from, there until the block ends; BuildFailed says why not."""
        repository = _Repository(self, export)
        with repository.locked():
            commit = repository.fetch()
            time = int(repository.git("show", "-s", "--format=%ct", commit))
            tree = repository.write_tree(commit)
        try:
            yield Checkout(tree.folder, commit, time, code_path(export.url))
        finally:
            tree.remove()

    def latest(self, export: GitExport) -> str:
        """The commit that an export means now, as the server says, without fetching it."""
        if export.revision and _SHA.fullmatch(export.revision):
            return export.revision
        repository = _Repository(self, export)
        if export.revision:
            with repository.locked():
                return repository.fetch()
        name = f"refs/heads/{export.branch}" if export.branch else "HEAD"
        with repository.locked():
            said = repository.remote("ls-remote", "--", export.url, name)
        if not said:
            repository.refuse(_no_branch(export))
        return said.split()[0]


class _Tree:
    """A folder of files for one user, who holds a lock on it: an unlocked one is left over."""

    def __init__(self, above: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=above))
        self._lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


class _Repository:
    """The bare repository of one url, for one export."""

    def __init__(self, owner: Checkouts, export: GitExport) -> None:
        digest = hashlib.sha256(export.url.encode()).hexdigest()[:16]
        self._place = owner.folder / f"{code_path(export.url)}-{digest}"
        self._owner = owner
        self._export = export

    def refuse(self, reason: str) -> NoReturn:
        one = self._export
        where = f"{one.key}: {_shown(one.url)}"
        raise BuildFailed(
            f"{where} (branch {one.branch}): {reason}" if one.branch else f"{where}: {reason}"
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """The block has the repository for itself. Others wait as long as git may take."""
        try:
            make_private(self._place)
            with open(self._place / "lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not (self._place / "git" / "HEAD").is_file():
                    self._run(["init", "-q", "--bare", "--template=", str(self._place / "git")], {})
                yield
        except OSError as error:
            self.refuse(f"cannot be kept in {self._place}: {error.strerror or error}")

    # --- bringing what is wanted here ------------------------------------------------------

    def fetch(self) -> str:
        """Bring the wanted commit here; its id."""
        one = self._export
        if one.revision:
            return self._fetch_revision(one.revision)
        name = f"refs/heads/{one.branch}" if one.branch else "HEAD"
        self._fetch(f"+{name}:refs/aysfs/wanted", depth=one.depth)
        return self.git("rev-parse", "--verify", "refs/aysfs/wanted^{commit}")

    def _fetch_revision(self, revision: str) -> str:
        """A commit by its id, also a short one, or a tag.

        Not every server gives a commit by its id, so all branches are the second try.
        """
        if _SHA.fullmatch(revision) and self._find(revision):
            return revision
        name = revision if _SHA.fullmatch(revision) else f"refs/tags/{revision}"
        with contextlib.suppress(BuildFailed):
            self._fetch(f"+{name}:refs/aysfs/wanted", depth=self._export.depth)
            return self.git("rev-parse", "--verify", "refs/aysfs/wanted^{commit}")
        branch = self._export.branch or "*"
        self._fetch(f"+refs/heads/{branch}:refs/aysfs/heads/{branch}", depth=None)
        found = self._find(revision)
        if found is None:
            self.refuse(f"there is no revision {revision}")
        return found

    def _find(self, revision: str) -> str | None:
        with contextlib.suppress(BuildFailed):
            return self.git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        return None

    def _fetch(self, what: str, depth: int | None) -> None:
        is_shallow = (self._place / "git" / "shallow").is_file()
        bound = [f"--depth={depth}"] if depth else ["--unshallow"] if is_shallow else []
        words = ["fetch", "-q", "--no-tags", "--no-write-fetch-head", *bound]
        self.remote(*words, "--", self._export.url, what)

    def remote(self, *words: str) -> str:
        """Run git against the server, with the credentials of the export."""
        with self._asking() as environment:
            return self._run([f"--git-dir={self._place / 'git'}", *words], environment)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[dict[str, str]]:
        """An environment in which git's questions are answered, and never by a person."""
        one = self._export
        environment = {"GIT_SSH_COMMAND": self._owner._ssh, "GIT_ASKPASS": "true"}
        if one.passwd is None and one.login is None:
            yield environment
            return
        with tempfile.TemporaryDirectory(dir=self._place, prefix="ask-") as folder:  # mode 0700
            script = Path(folder) / "askpass"
            script.write_text(_ASKPASS)
            script.chmod(0o700)
            environment["GIT_ASKPASS"] = str(script)
            environment["AYSFS_GIT_LOGIN"] = one.login or ""
            environment["AYSFS_GIT_PASSWD"] = one.passwd or ""
            # A helper of the user would be asked first, and told what we know afterwards.
            environment |= _as_environment({**_SETTINGS, "credential.helper": ""})
            yield environment

    # --- taking files out --------------------------------------------------------------------

    def git(self, *words: str) -> str:
        """Run git on what is here. The user's configuration cannot change what comes out."""
        return self._run(
            [f"--git-dir={self._place / 'git'}", *words], {"GIT_CONFIG_GLOBAL": "/dev/null"}
        )

    def write_tree(self, commit: str) -> _Tree:
        """The files of a commit in a new folder; those that nobody uses any more go."""
        above = self._place / "trees"
        above.mkdir(exist_ok=True)
        for path in above.iterdir():
            _remove_unused(path)
        tree = _Tree(above)
        try:
            with tempfile.TemporaryDirectory(dir=self._place, prefix="index-") as folder:
                self._run(
                    [
                        f"--git-dir={self._place / 'git'}",
                        f"--work-tree={tree.folder}",
                        *("read-tree", "--reset", "-u", commit),
                    ],
                    {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_INDEX_FILE": f"{folder}/index"},
                )
        except BaseException:
            tree.remove()
            raise
        return tree

    # --- running git -------------------------------------------------------------------------

    def _run(self, words: Sequence[str], environment: Mapping[str, str]) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        fixed = {
            "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",
            **_as_environment(_SETTINGS),
        }
        try:
            done = subprocess.run(
                ["git", *words],
                env={**kept, **fixed, **environment},
                cwd=self._place,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._owner._timeout,
                check=False,
            )
        except FileNotFoundError:
            raise BuildFailed(
                f"{self._export.key}: git is not installed", hint="install it (Debian: git)"
            ) from None
        except subprocess.TimeoutExpired:
            self.refuse(f"git did not end within {self._owner._timeout:.0f} seconds")
        if done.returncode:
            self.refuse(self._reason(done.stderr.decode(errors="replace")))
        return done.stdout.decode(errors="replace").strip()

    def _reason(self, said: str) -> str:
        """Why git failed, in one line that holds no password."""
        one = self._export
        if one.passwd:
            said = said.replace(one.passwd, "***")
        for pattern, words in _REASONS:
            if re.search(pattern, said, re.IGNORECASE):
                return words
        if re.search("couldn't find remote ref|no such remote ref|not our ref", said):
            return _no_branch(one) if not one.revision else f"there is no revision {one.revision}"
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        facts = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines
        return f"git says: {facts[0] if facts else 'nothing'}"


_REASONS = (
    ("host key .* has changed|remote host identification has changed", "the host key has changed"),
    (
        "host key verification failed",
        "the host key is not known: look at it, and accept it by hand",
    ),
    (r"permission denied \(", "none of this user's SSH keys is accepted"),
    (
        "authentication failed|could not read (username|password)|error: 40[13]",
        "the server wants a login and password that it accepts (fields login and passwd)",
    ),
    (
        "repository .* not found|does not appear to be a git repository|repository not found"
        "|error: 404|does not exist",
        "there is no such repository",
    ),
)


def _no_branch(export: GitExport) -> str:
    if export.branch:
        return f"there is no branch {export.branch}"
    return "the repository has no commit"


def code_path(url: str) -> str:
    """``<hosttype>/<account>/<repo>``, in lower case and without anything odd."""
    scp = _SCP.fullmatch(url)
    if scp:
        host, path = scp["host"], scp["path"]
    else:
        parts = urlsplit(url)
        host, path = parts.netloc.rpartition("@")[2], parts.path
    names = [name for name in path.removesuffix("/").removesuffix(".git").split("/") if name]
    account, repo = ["", "", *names][-2:]
    host = host.partition(":")[0]
    kind = host if re.fullmatch("[0-9.]+", host) else host.partition(".")[0]
    return "/".join(_plain(name) for name in (kind or "local", account, repo))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]", "-", name.lower()).lstrip(".-") or "_"


def _shown(url: str) -> str:
    """A url as a message shows it: without a password."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", url)


def _as_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings as git takes them from its environment, where its children see them too."""
    found = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (name, value) in enumerate(settings.items()):
        found |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return found


def _remove_unused(folder: Path) -> None:
    """Remove a tree whose user is gone. The repository is locked: none is being made."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except (BlockingIOError, FileNotFoundError):  # in use, or just being removed by its user
        pass
    finally:
        os.close(descriptor)
