"""Where credentials, regions and endpoints of object stores come from.

Serves the object store: what an address and an environment say, as options of obstore. obstore
itself reads the variables of every cloud and asks the services that hand out credentials to
machines; owned here is what it does not read: profiles of the AWS tools, connection strings and the
short names of the Azure ones. Secrets go into the options and into nothing else: no message
repeats a value.
"""

import configparser
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from aysfs.errors import BadConfig
from aysfs.store.objects_address import AZURE, GCS, S3, ObjectAddress, check_endpoint

Environment = Mapping[str, str]

DEFAULT_REGION = "us-east-1"

_SECRETS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
# What a profile may ask for instead of keys, and nobody here can do.
_ELSEWHERE = ("credential_process", "role_arn", "sso_session", "sso_start_url")
_BEFORE = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE")  # obstore reads these itself
_MACHINE = (
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
# With these a read is more than its URL.
_UNSIGNABLE = (
    "AWS_REQUEST_PAYER",
    "AWS_S3_EXPRESS",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SKIP_SIGNATURE",
)
_CONNECTION = {
    "AccountName": "account_name",
    "AccountKey": "account_key",
    "SharedAccessSignature": "sas_key",
    "BlobEndpoint": "endpoint",
}


class Configured(NamedTuple):
    """What a client of obstore is made with. ``options`` hold secrets: never to be shown."""

    options: dict[str, str]
    is_plain: bool  # whether the endpoint is http
    may_sign: bool  # whether a signed URL is all that a read needs, and signing it asks nobody
    authorities: bytes | None  # PEM, trusted besides the system's


def configure(address: ObjectAddress, environment: Environment = os.environ) -> Configured:
    """The options of an address's client; an address says more than an environment."""
    made = {S3: _s3, GCS: _gcs, AZURE: _azure}[address.scheme](address, environment)
    if address.is_set("anonymous"):
        made["skip_signature"] = "true"
    endpoint = made.get("base_url" if address.scheme == GCS else "endpoint", "")
    plain = endpoint.startswith("http:")
    # AWS_CA_BUNDLE is trusted by obstore and not by libcurl, which has SSL_CERT_FILE.
    keys = "access_key_id" in made or bool(environment.get("AWS_ACCESS_KEY_ID"))
    sign = address.scheme == S3 and keys and not address.is_set("anonymous")
    sign = sign and not any(environment.get(name) for name in _UNSIGNABLE)
    sign = sign and (plain or not environment.get("AWS_CA_BUNDLE"))
    return Configured(made, plain, sign, _authorities(address, environment))


# --- S3 ----------------------------------------------------------------------------------


def _s3(address: ObjectAddress, environment: Environment) -> dict[str, str]:
    made: dict[str, str] = {}
    profile = _profile(address, environment)
    if not address.is_set("anonymous"):
        made |= _keys(address, environment, profile)
    region = (
        address.options.get("region")
        or _first(environment, "AWS_REGION", "AWS_DEFAULT_REGION")
        or profile.get("region")
    )
    made["region"] = region or DEFAULT_REGION
    endpoint = address.endpoint or _s3_endpoint(environment, profile)
    if endpoint:
        made["endpoint"] = check_endpoint(endpoint, f"{address}: AWS_ENDPOINT_URL")
    if "virtual_host" in address.options:
        made["virtual_hosted_style_request"] = str(address.is_set("virtual_host")).lower()
    if endpoint and address.is_set("virtual_host"):
        scheme, _, rest = made["endpoint"].partition("://")
        made["endpoint"] = f"{scheme}://{address.bucket}.{rest}"
    if made.get("endpoint"):
        made["aws_endpoint_url_s3"] = made["endpoint"]  # else the environment's would be used
    return made


def _s3_endpoint(environment: Environment, profile: Mapping[str, str]) -> str | None:
    found = _first(environment, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return found or profile.get("endpoint_url")


def _keys(
    address: ObjectAddress, environment: Environment, profile: Mapping[str, str]
) -> dict[str, str]:
    """The keys of a profile, where the environment has none that come before them."""
    named = "profile" in address.options
    if not named and any(environment.get(name) for name in _BEFORE):
        return {}
    keys = {ours: profile[theirs] for theirs, ours in _SECRETS.items() if profile.get(theirs)}
    if "access_key_id" in keys and "secret_access_key" in keys:
        return keys
    if not named and any(environment.get(name) for name in _MACHINE):
        return {}
    for key in _ELSEWHERE:
        if profile.get(key):
            raise BadConfig(
                f"{address}: the AWS profile has `{key}`, which is not supported",
                hint='run `eval "$(aws configure export-credentials --format env)"` first',
            )
    if named or environment.get("AWS_PROFILE"):
        raise BadConfig(
            f"{address}: the AWS profile has no keys",
            hint="aws_access_key_id and aws_secret_access_key in ~/.aws/credentials",
        )
    return {}


def _profile(address: ObjectAddress, environment: Environment) -> dict[str, str]:
    """What the files of the AWS tools say of the profile that is in use."""
    chosen = address.options.get("profile") or _first(
        environment, "AWS_PROFILE", "AWS_DEFAULT_PROFILE"
    )
    name = chosen or "default"
    home = Path(environment.get("HOME") or "~").expanduser() / ".aws"
    config = Path(environment.get("AWS_CONFIG_FILE") or home / "config").expanduser()
    secrets = Path(environment.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials")
    section = name if name == "default" else f"profile {name}"
    found, named = _section(config, section)
    keys, also = _section(secrets.expanduser(), name)
    if chosen and not (named or also):
        raise BadConfig(f"{address}: no such AWS profile", hint=f"looked in {config}, {secrets}")
    return {**found, **keys}


def _section(path: Path, name: str) -> tuple[dict[str, str], bool]:
    """A section of an ini file, and whether it is there."""
    parser = configparser.RawConfigParser(default_section="", strict=False)
    try:
        parser.read_string(path.read_text())
    except FileNotFoundError:
        return {}, False
    except (OSError, UnicodeDecodeError, configparser.Error):
        # The parser's own words repeat the line, which may be a secret.
        raise BadConfig(f"{path}: cannot be read as a file of the AWS tools") from None
    there = parser.has_section(name)
    return (dict(parser[name]) if there else {}), there


# --- Google and Azure --------------------------------------------------------------------


def _gcs(address: ObjectAddress, environment: Environment) -> dict[str, str]:
    found = address.endpoint or _first(environment, "GOOGLE_BASE_URL", "STORAGE_EMULATOR_HOST")
    if not found:
        return {}
    where = f"{address}: GOOGLE_BASE_URL"
    return {"base_url": check_endpoint(found if "://" in found else f"http://{found}", where)}


def _azure(address: ObjectAddress, environment: Environment) -> dict[str, str]:
    made = _connection(address, environment.get("AZURE_STORAGE_CONNECTION_STRING", ""))
    for ours, names in {
        "account_name": ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"),
        "account_key": ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"),
        "endpoint": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    }.items():
        if value := _first(environment, *names):
            made[ours] = value
    if "account" in address.options:
        made["account_name"] = address.options["account"]
    if address.endpoint:
        made["endpoint"] = address.endpoint
    if "endpoint" in made:
        made["endpoint"] = check_endpoint(made["endpoint"], f"{address}: AZURE_STORAGE_ENDPOINT")
    emulated = environment.get("AZURE_STORAGE_USE_EMULATOR", "").lower() in ("1", "true")
    if not made.get("account_name") and not emulated:
        raise BadConfig(
            f"{address}: which storage account?",
            hint="set AZURE_STORAGE_ACCOUNT, or write ?account=NAME",
        )
    return made


def _connection(address: ObjectAddress, text: str) -> dict[str, str]:
    """A connection string of Azure: ``Name=value;Name=value``."""
    pairs = [pair.partition("=") for pair in text.split(";") if pair.strip()]
    if any(not equals for _, equals, _ in pairs):
        raise BadConfig(f"{address}: AZURE_STORAGE_CONNECTION_STRING is no connection string")
    said = {key.strip(): value.strip() for key, _, value in pairs}
    made = {ours: said[theirs] for theirs, ours in _CONNECTION.items() if said.get(theirs)}
    if "endpoint" not in made and said.get("EndpointSuffix") and "account_name" in made:
        made["endpoint"] = f"https://{made['account_name']}.blob.{said['EndpointSuffix']}"
    return made


# --- all of them -------------------------------------------------------------------------


def _authorities(address: ObjectAddress, environment: Environment) -> bytes | None:
    """Certificates that are trusted besides the system's, as other tools find them."""
    own = ("AWS_CA_BUNDLE",) if address.scheme == S3 else ()
    path = _first(environment, *own, "SSL_CERT_FILE")
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror}, where certificates should be") from error


def host_of(configured: Configured) -> str | None:
    """The host and port that an endpoint names, for messages; None for the cloud's own."""
    endpoint = configured.options.get("endpoint") or configured.options.get("base_url")
    return urlsplit(endpoint).netloc if endpoint else None


def _first(environment: Environment, *names: str) -> str | None:
    return next((environment[name] for name in names if environment.get(name)), None)
