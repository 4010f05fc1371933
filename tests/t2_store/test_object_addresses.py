"""Addresses of buckets, and where their credentials come from."""

import base64
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aysfs import digest as digests
from aysfs.errors import BadConfig, BlobMissing, StoreTrouble
from aysfs.store.objects import ObjectsStore
from aysfs.store.objects_address import SCHEMES, parse_object_address
from aysfs.store.objects_bucket import Bounds
from aysfs.store.objects_config import Configured, configure
from aysfs.store.open import open_store
from aysfs.store.protocol import Held
from tests.servers import ScriptedServer, answer

SECRET = "geheim"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": SECRET}
FILES = {
    "config": "[default]\nregion = eu-west-1\n[profile far]\nregion = eu-north-1\n"
    "endpoint_url = https://far.example\n[profile role]\nrole_arn = arn:aws:iam::1:role/x\n",
    "credentials": "[default]\naws_access_key_id = A\naws_secret_access_key = B\n"
    "[far]\naws_access_key_id=C\naws_secret_access_key=D\naws_session_token=E\n",
}


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment whose home has the files of the AWS tools."""
    (tmp_path / ".aws").mkdir()
    for name, text in FILES.items():
        (tmp_path / ".aws" / name).write_text(text)
    return {"HOME": str(tmp_path)}


def configured(url: str, environment: dict[str, str]) -> Configured:
    return configure(parse_object_address(url), {"HOME": "/nowhere", **environment})


# --- addresses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("s3://bucket", "s3://bucket"),
        ("S3://bucket/", "s3://bucket"),
        ("gs://my.bucket_1/a/b/", "gs://my.bucket_1/a/b"),
        ("s3://bucket/a%20b?region=eu-west-1&endpoint=http://h:1/", "s3://bucket/a b"),
        ("s3://bucket?virtual_host=true&anonymous=false&profile=x", "s3://bucket"),
        ("az://container/p?account=me", "az://container/p"),
    ],
)
def test_a_bucket(url: str, label: str) -> None:
    address = parse_object_address(url)
    assert str(address) == label
    assert "http" not in str(address)


@pytest.mark.parametrize(
    "rest",
    [
        "", "/x", "b", "a b", "AKIA:geheim@bucket", "geheim@bucket/x", "bucket/../x", "bucket/a//b",
        "bucket/.", "bucket/a%00b", "bucket/%2e%2e/b", "bucket/%ff", "bucket?secret=geheim",
        "bucket?endpoint=geheim", "bucket?endpoint=http://a:geheim@h",
        "bucket?endpoint=ftp://geheim", "bucket?anonymous=geheim", "bucket?endpoint=",
        "bucket#geheim", "bucket?endpoint=http://h?geheim", "bucket?region=a&region=geheim",
        "[geheim", "bucket:80", "..",
    ],
)  # fmt: skip
@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_no_bucket(scheme: str, rest: str) -> None:
    with pytest.raises(BadConfig) as caught:
        open_store(f"{scheme}://{rest}")
    assert caught.value.hint
    assert SECRET not in f"{caught.value} {caught.value.hint}"


@given(st.sampled_from(SCHEMES), st.text(max_size=40))
def test_any_text_is_a_bucket_or_refused(scheme: str, rest: str) -> None:
    try:
        address = parse_object_address(f"{scheme}://{rest}")
    except BadConfig:
        return
    assert ".." not in address.prefix.split("/")
    assert not address.prefix.startswith("/")
    assert address.bucket


# --- credentials, regions, endpoints -----------------------------------------------------


def test_keys_of_the_environment_come_before_those_of_a_file(home: dict[str, str]) -> None:
    options, plain, *_ = configured("s3://bucket", home | KEYS)
    assert options == {"region": "eu-west-1"}  # obstore reads the environment's keys itself
    assert not plain


def test_a_profile_gives_keys_region_and_endpoint(home: dict[str, str]) -> None:
    default = {"access_key_id": "A", "secret_access_key": "B", "region": "eu-west-1"}
    assert configured("s3://bucket", home).options == default
    far = {
        "access_key_id": "C",
        "secret_access_key": "D",
        "session_token": "E",
        "region": "eu-north-1",
        "endpoint": "https://far.example",
        "aws_endpoint_url_s3": "https://far.example",
    }
    assert configured("s3://bucket", home | {"AWS_PROFILE": "far"}).options == far
    assert configured("s3://bucket?profile=far", home | KEYS).options == far


def test_an_address_comes_before_the_environment_and_that_before_a_file(
    home: dict[str, str],
) -> None:
    said = home | {"AWS_REGION": "here", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    options, plain, *_ = configured("s3://bucket?profile=far", said)
    assert (options["region"], options["endpoint"], plain) == ("here", "http://127.0.0.1:1", True)
    url = "s3://bucket?profile=far&region=there&endpoint=https://h"
    options, plain, *_ = configured(url, said)
    assert (options["region"], options["endpoint"], plain) == ("there", "https://h", False)


def test_a_virtual_host_has_the_bucket_in_its_name() -> None:
    options = configured("s3://bucket?virtual_host=1&endpoint=https://h:9", KEYS).options
    assert options["endpoint"] == "https://bucket.h:9"
    assert options["virtual_hosted_style_request"] == "true"


def test_without_keys_nothing_is_signed_where_that_is_asked_for(home: dict[str, str]) -> None:
    options = configured("s3://bucket?anonymous=true", home).options
    assert options == {"region": "eu-west-1", "skip_signature": "true"}


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"AWS_PROFILE": "nobody"}, "no such AWS profile"),
        ({"AWS_PROFILE": "role"}, "has `role_arn`"),
        ({"AWS_ENDPOINT_URL": "geheim"}, "bad endpoint"),
        ({"AWS_CA_BUNDLE": "/not/there"}, "/not/there"),
    ],
)
def test_what_cannot_be_used(home: dict[str, str], environment: dict[str, str], words: str) -> None:
    with pytest.raises(BadConfig, match=words) as caught:
        configured("s3://bucket", home | environment)
    assert SECRET not in f"{caught.value} {caught.value.hint}"


def test_a_broken_file_is_named_and_not_repeated(home: dict[str, str]) -> None:
    path = Path(home["HOME"]) / ".aws/credentials"
    path.write_text(f"aws_secret_access_key {SECRET}\n")
    with pytest.raises(BadConfig, match="credentials") as caught:
        configured("s3://bucket", home)
    assert SECRET not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"


def test_azure_is_told_by_its_tools_variables() -> None:
    string = f"DefaultEndpointsProtocol=https;AccountName=me;AccountKey={SECRET}==;"
    suffix = "EndpointSuffix=core.windows.net"
    assert configured("az://box", {"AZURE_STORAGE_CONNECTION_STRING": string + suffix}).options == {
        "account_name": "me",
        "account_key": f"{SECRET}==",
        "endpoint": "https://me.blob.core.windows.net",
    }
    tools = {"AZURE_STORAGE_ACCOUNT": "me", "AZURE_STORAGE_KEY": SECRET}
    assert configured("az://box?account=you&endpoint=http://h", tools).options == {
        "account_name": "you",
        "account_key": SECRET,
        "endpoint": "http://h",
    }
    with pytest.raises(BadConfig, match="which storage account"):
        configured("az://box", {})
    with pytest.raises(BadConfig, match="no connection string") as caught:
        configured("az://box", {"AZURE_STORAGE_CONNECTION_STRING": SECRET})
    assert SECRET not in str(caught.value)


def test_google_may_be_elsewhere() -> None:
    assert configured("gs://bucket", {}).options == {}
    elsewhere = configured("gs://bucket", {"STORAGE_EMULATOR_HOST": "127.0.0.1:9"})
    assert elsewhere.options == {"base_url": "http://127.0.0.1:9"}
    assert elsewhere.is_plain


# --- what the other two clouds are asked -------------------------------------------------

BLOB = b"small"
DIGEST = digests.of(BLOB)
OBJECT = f"dedupe/{DIGEST.hex()[0]}/{DIGEST.hex()[1]}/{DIGEST.hex()}"
ACCOUNT = base64.b64encode(SECRET.encode()).decode()
NO_LISTING = {
    "gs": b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>",
    "az": b"<EnumerationResults><Blobs></Blobs></EnumerationResults>",
}
HEADERS = {"last_modified": "Thu, 26 Nov 2026 02:00:00 GMT", "etag": '"x"'}
HASTY = Bounds(connect=2.0, idle=1.0, quick=3.0, whole=30.0, tries=1, trying=1.0)
clouds = pytest.mark.parametrize("scheme", ["gs", "az"])


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", SECRET)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "me")
    monkeypatch.setenv("AZURE_STORAGE_KEY", ACCOUNT)


def at(scheme: str, server: ScriptedServer) -> ObjectsStore:
    url = f"{scheme}://bucket/p?endpoint={server.url}"
    return ObjectsStore(parse_object_address(url), bounds=HASTY)


@clouds
async def test_a_blob_is_asked_for_with_credentials(scheme: str) -> None:
    kind = {"x_ms_blob_type": "BlockBlob"}
    with ScriptedServer([answer(BLOB, **HEADERS, **kind)]) as server:
        sink = Held()
        await at(scheme, server).get(DIGEST, len(BLOB), sink)
    assert sink.getvalue() == BLOB
    head = server.heads[0].lower().replace("%2f", "/")
    assert head.startswith(f"get /bucket/p/{OBJECT} http/1.1")
    signed = {"gs": f"authorization: bearer {SECRET}", "az": "authorization: sharedkey me:"}
    assert signed[scheme] in head


@clouds
async def test_a_blob_is_missing_only_where_the_bucket_is(scheme: str) -> None:
    gone = answer(b"", "404 Not Found")
    with ScriptedServer([gone], [answer(NO_LISTING[scheme])], [gone]) as server:
        store = at(scheme, server)
        with pytest.raises(StoreTrouble, match="404"):  # the second place's listing: no bucket
            await store.get(DIGEST, len(BLOB), Held())
    with (
        ScriptedServer(
            [gone], [answer(NO_LISTING[scheme])], [gone], [answer(NO_LISTING[scheme])]
        ) as server,
        pytest.raises(BlobMissing),
    ):
        await at(scheme, server).get(DIGEST, len(BLOB), Held())


@clouds
async def test_a_refusal_is_trouble_and_shows_no_secret(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if scheme == "az":  # a secret that is a part of every URL
        monkeypatch.delenv("AZURE_STORAGE_KEY")
        monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", f"sv=1&sig={SECRET}")
    with ScriptedServer([answer(b"", "403 Forbidden")]) as server:
        store = at(scheme, server)
        with pytest.raises(StoreTrouble, match="answered 403") as caught:
            await store.get(DIGEST, len(BLOB), Held())
        with pytest.raises(StoreTrouble, match="answered 403"):
            await store.put(DIGEST, len(BLOB), io.BytesIO(BLOB))
    assert SECRET in server.heads[0]
    assert SECRET not in f"{caught.value!r} {caught.value.hint} {store.label}"
