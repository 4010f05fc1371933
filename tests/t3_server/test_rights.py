"""Who may do what, and what a login costs."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from aysfs import digest as digests
from aysfs.errors import BadConfig, StoreTrouble
from aysfs.names import parse_name
from aysfs.publish.push import push
from aysfs.server.accounts import Account, Accounts, Right, hash_password, read_accounts
from aysfs.store.open_to_write import open_store
from aysfs.store.packs import read_packs
from aysfs.store.protocol import Store
from aysfs.upkeep.check import check
from tests.store_server import StoreServer

DATA = b"a blob"
NAME = digests.of(DATA).hex()
BLOB = f"/dedupe/{NAME[0]}/{NAME[1]}/{NAME}"
WORD = "geheim:wie immer"
RIGHTS = ("read", "write", "delete")
LIST = "/dedupe/md/a__b.flist"


def login(rights: tuple[str, ...]) -> str:
    return "-".join(rights) or "nothing"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """A server with an account for every combination of rights."""
    folder = tmp_path_factory.mktemp("rights")
    hashed = hash_password(WORD)
    entries = []
    for count in range(4):
        for rights in itertools.combinations(RIGHTS, count):
            given = "".join(f"{right} = true\n" for right in rights)
            entries.append(
                f'[[accounts]]\nlogin = "{login(rights)}"\npassword = "{hashed}"\n{given}'
            )
    accounts = folder / "accounts.toml"
    accounts.write_text("\n".join(entries))
    with StoreServer(folder, "--accounts", str(accounts)) as server:
        yield server


def ask(
    server: StoreServer, who: str, method: str, path: str, body: bytes | None = None
) -> httpx.Response:
    auth = httpx.BasicAuth(who, WORD)
    return server.web.request(method, server.url + path, content=body, auth=auth)


ASKED = f'{{"Hashes": ["{NAME}"]}}'.encode()
TABLE: list[tuple[str, str, bytes | None, set[str]]] = [
    ("GET", BLOB, None, {"read"}),
    ("HEAD", BLOB, None, {"read"}),
    ("GET", f"/dedupe/files/{NAME[0]}/{NAME[1]}/{NAME}", None, {"read"}),
    ("GET", f"/store/dedupe/{NAME}", None, {"read"}),
    ("GET", "/store/dedupe", None, {"read"}),
    ("GET", "/store/dedupe/strays", None, {"read"}),
    ("GET", "/store/dedupe/shelf/00", None, {"read"}),
    ("GET", "/store/dedupe/notes", None, {"read", "write"}),
    ("GET", "/store/dedupe/about", None, {"read", "write", "delete"}),
    ("POST", "/store/dedupe/exists", ASKED, {"read", "write"}),
    ("GET", "/dedupe/", None, {"read"}),
    ("GET", "/dedupe/md/", None, {"read"}),
    ("GET", LIST, None, {"read"}),
    ("GET", "/dedupe/md/.gc", None, {"read", "write"}),
    ("GET", "/dedupe/md/a__b.image", None, {"read", "write"}),
    ("GET", "/dedupe/md/a__b.packs", None, {"read", "write"}),
    ("GET", "/dedupe/md/a__b.profile", None, {"read", "write"}),
    ("GET", "/static/jsnet", None, {"read"}),
    ("GET", "/metrics", None, {"read"}),
    ("POST", "/store/dedupe", DATA, {"write"}),
    ("POST", f"/store/dedupe/{NAME}", DATA, {"write"}),
    ("POST", "/store/dedupe/blobs", b"", {"write"}),
    ("PUT", LIST, b"a list", {"write"}),
    ("PUT", "/dedupe/md/note", b"a note", {"write"}),
    ("PUT", "/dedupe/md/.gc", b"a claim", {"write"}),
    ("POST", "/static/jsnet", b"a binary", {"write"}),
    ("DELETE", "/dedupe/md/.push-0123-0", None, {"write", "delete"}),
    ("DELETE", "/dedupe/md/note", None, {"delete"}),
    ("DELETE", LIST, None, {"delete"}),
    ("POST", "/store/dedupe/strays/delete", b'{"Paths": []}', {"delete"}),
    ("POST", "/store/dedupe/delete", ASKED, {"delete"}),
    ("DELETE", f"/store/dedupe/{NAME}", None, {"delete"}),
]


NOTES = (
    "/dedupe/md/note",
    "/dedupe/md/.gc",
    "/dedupe/md/a__b.image",
    "/dedupe/md/a__b.packs",
    "/dedupe/md/a__b.profile",
)


def renew(server: StoreServer) -> None:
    """Have everything there that the requests are about."""
    everything = login(RIGHTS)
    ask(server, everything, "POST", f"/store/dedupe/{NAME}", DATA)
    for path in (LIST, *NOTES, "/static/jsnet"):
        assert ask(server, everything, "PUT", path, b"x").is_success


@pytest.mark.parametrize(
    ("method", "path", "body", "enough"), TABLE, ids=[f"{row[0]}-{row[1]}" for row in TABLE]
)
def test_a_right_is_enough_or_it_is_not(
    server: StoreServer, method: str, path: str, body: bytes | None, enough: set[str]
) -> None:
    renew(server)
    for count in range(4):
        for rights in itertools.combinations(RIGHTS, count):
            answer = ask(server, login(rights), method, path, body)
            if enough & set(rights):
                assert answer.is_success, (rights, answer.text)
                renew(server)
            else:
                assert answer.status_code == 403, (rights, answer.text)
                assert ask(server, "read", "GET", BLOB).content == DATA


@pytest.mark.parametrize("path", [row[1] for row in TABLE])
def test_without_a_login_there_is_nothing(server: StoreServer, path: str) -> None:
    for auth in (None, ("read", "wrong"), ("nobody", WORD), ("read", "")):
        for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
            answer = server.web.request(method, server.url + path, auth=auth)
            assert answer.status_code == 401
            assert "basic" in answer.headers["www-authenticate"].lower()


@pytest.mark.parametrize(
    "header", ["", "Basic", "Basic ????", "Basic /w==", "Bearer x", "Basic " + "A" * 4000]
)
def test_a_login_that_is_none_is_refused(server: StoreServer, header: str) -> None:
    answer = httpx.get(server.url + BLOB, headers={"Authorization": header}, timeout=20)
    assert answer.status_code == 401


def test_the_health_of_a_server_is_no_secret(server: StoreServer) -> None:
    assert httpx.get(f"{server.url}/health").text == "ok\n"


def test_only_the_first_request_pays_for_the_password(server: StoreServer) -> None:
    with httpx.Client(auth=("read", WORD)) as client:
        client.get(f"{server.url}/store/dedupe/about")
        before = time.perf_counter()
        for _ in range(50):
            assert client.get(f"{server.url}/store/dedupe/about").status_code == 200
        seconds = time.perf_counter() - before
    hashing = time.perf_counter()
    hash_password(WORD)
    assert seconds / 50 < (time.perf_counter() - hashing) / 2


def test_no_password_is_logged(server: StoreServer) -> None:
    ask(server, "read", "GET", f"/nowhere?password={WORD}")
    log = server.logged(" read GET /nowhere 404 ")
    assert WORD.partition(":")[0] not in log


def store_of(server: StoreServer, who: str, namespace: str = "dedupe") -> Store:
    word = WORD.replace(":", "%3A").replace(" ", "%20")
    return open_store(server.url.replace("://", f"://{who}:{word}@"), namespace=namespace)


async def test_who_may_only_write_can_push_images_and_packs(
    server: StoreServer, tmp_path: Path
) -> None:
    """Also where there are some already, which cannot be read."""
    (tmp_path / "tree").mkdir()
    name = parse_name("writer__tree")
    for content in ("one", "one", "two"):
        (tmp_path / "tree/file").write_text(content)
        for packs in (True, False):
            store = store_of(server, "write", "pushed")
            try:
                await push(tmp_path / "tree", name, store, base=b"/x", image=packs, packs=packs)
            finally:
                await store.aclose()
    store = store_of(server, "read-write", "pushed")
    try:
        report = await check(store, [name], deep=True)
        assert (report.wrong, len(report.lists)) == ({}, 1)
        assert (
            await read_packs(store, name) is None
        )  # the last push could not see that all is there
    finally:
        await store.aclose()


async def test_a_store_says_which_right_is_wanting(server: StoreServer) -> None:
    store = store_of(server, "read")
    try:
        with pytest.raises(StoreTrouble, match="HTTP 403") as caught:
            await store.put_list(parse_name("a__b"), [b"x"])
        assert "needs the right to write" in (caught.value.hint or "")
        assert WORD not in str(caught.value)
    finally:
        await store.aclose()


def test_without_accounts_everybody_reads_and_nobody_writes(tmp_path: Path) -> None:
    with StoreServer(tmp_path) as server:
        for method, path, body, enough in TABLE:
            answer = server.web.request(method, server.url + path, content=body)
            assert (answer.status_code == 403) == ("read" not in enough)


# --- the file of accounts ----------------------------------------------------------------

HASH = hash_password("x")
GOOD = f'[[accounts]]\nlogin = "a"\npassword = "{HASH}"\n'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no toml",
        "accounts = 3",
        "accounts = []",
        "accounts = [3]",
        GOOD + "[more]\n",
        GOOD + "admin = true\n",
        GOOD + "read = 1\n",
        GOOD + GOOD,
        GOOD.replace('"a"', '""'),
        GOOD.replace('"a"', '"a:b"'),
        GOOD.replace('"a"', "3"),
        GOOD.replace(HASH, "geheim"),
        GOOD.replace(HASH, HASH.replace("16384", "16385")),
        GOOD.replace(HASH, HASH.replace("16384", "1073741824")),
        GOOD.replace(HASH, HASH[:-40]),
        GOOD.replace(HASH, HASH.replace("scrypt", "plain")),
    ],
)
def test_a_file_of_accounts_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "accounts"
    file.write_text(text)
    with pytest.raises(BadConfig, match=str(file)) as caught:
        read_accounts(file)
    assert "geheim" not in str(caught.value)


def test_a_file_of_accounts_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="No such file"):
        read_accounts(tmp_path / "accounts")


async def test_what_is_remembered_of_logins_is_bounded() -> None:
    accounts = Accounts(Right.NONE)
    accounts.add(Account("a", Right.READ), HASH)
    accounts._checked.update((b"%d" % number, None) for number in range(1024))
    assert await accounts.of("Basic YTp4") == Account("a", Right.READ)
    assert len(accounts._checked) == 1024


def test_the_same_password_has_another_hash_each_time() -> None:
    assert hash_password("x") != HASH
