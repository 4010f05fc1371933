"""A real S3 server on loopback: OpenStack Swift with its s3api, all data below a test's directory.

Swift lives in an environment of its own, ``.venv/swift``, which ``scripts/setup.sh`` makes: four
plain processes (account, container, object, proxy), one copy of everything, no auditors. It
is here for correctness; its speed says nothing.
"""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pycurl

from tests.servers import free_port

BIN = Path(__file__).parent.parent / ".venv/swift/bin"
PATIENCE = 30.0

KEY, SECRET = "AKIAAYSFS", "geheim-und-lang"
REGION = "us-east-1"

PARTS = ("object", "container", "account")
COMMON = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = root
swift_dir = {etc}
devices = {folder}/srv
mount_check = false
workers = 0
fallocate_reserve = 0
log_level = WARNING
"""
STORAGE = """\
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""
PROXY = """\
[pipeline:main]
pipeline = catch_errors listing_formats s3api s3key tempauth copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = {region}
[filter:s3key]
paste.filter_factory = s3key:factory
{key} = test:tester
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""
SWIFT = """\
[swift-hash]
swift_hash_path_prefix = aysfs
swift_hash_path_suffix = aysfs
[storage-policy:0]
name = Policy-0
default = yes
"""
# An access key as those of AWS, for an account whose name has the colon that tempauth wants.
S3KEY = """\
def factory(settings, **alias):
    def made(app):
        def called(env, start_response):
            details = env.get("s3api.auth_details")
            key = details and details["access_key"]
            if key in alias:
                details["access_key"] = alias[key]
                env["PATH_INFO"] = env["PATH_INFO"].replace(key, alias[key], 1)
            return app(env, start_response)
        return called
    return made
"""
RINGS = """\
import json, sys
from swift.common.ring import RingBuilder
for name, port in json.loads(sys.argv[1]).items():
    ring = RingBuilder(4, 1, 0)
    ring.add_dev(dict(id=0, region=1, zone=1, ip="127.0.0.1", port=port, device="d1", weight=1,
                      meta=""))
    ring.rebalance()
    ring.get_ring().save(name + ".ring.gz")
"""
OVERTAKE = """\
import sys, time
from swift.common.direct_client import direct_put_object
from swift.common.ring import Ring
from swift.common.utils import Timestamp, set_swift_dir
set_swift_dir(sys.argv[1])
ring = Ring(sys.argv[1], ring_name="object")
part, nodes = ring.get_nodes(*sys.argv[2:5])
newer = Timestamp(time.time() + 60).internal
body = sys.stdin.buffer.read()
headers = {"X-Timestamp": newer, "Content-Type": "application/octet-stream"}
direct_put_object(nodes[0], part, *sys.argv[2:5], body, content_length=len(body), headers=headers)
"""


class Swift:
    """Four processes that are one S3 server; ``bucket`` makes one to be used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._etc = folder / "etc"
        self._ports = {name: free_port() for name in (*PARTS, "proxy")}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for one in (self._etc, folder / "log", folder / "srv/d1"):
            one.mkdir(parents=True)
        self._configure()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports['proxy']}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a client of it has, as those of AWS have them."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": REGION,
        }

    def start(self) -> "Swift":
        """Run until ``stop``; returns when it answers."""
        for name in (*PARTS, "proxy"):
            self._run(name)
        for name, port in self._ports.items():
            self._wait(name, port)
        return self

    def stop(self, *names: str) -> None:
        """End these of its processes, or all, at once."""
        for name in names or tuple(self._processes):
            process = self._processes.pop(name)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)

    def bucket(self, name: str) -> str:
        """Make a bucket; its address."""
        assert self.request("PUT", f"/{name}")[0] == 200
        return f"s3://{name}"

    def request(self, method: str, path: str) -> tuple[int, bytes]:
        """A signed request for a path and query: status and body, as the server gives them."""
        body = io.BytesIO()
        curl = pycurl.Curl()
        curl.setopt(pycurl.URL, self.url + path)
        curl.setopt(pycurl.CUSTOMREQUEST, method)
        curl.setopt(pycurl.WRITEDATA, body)
        curl.setopt(pycurl.AWS_SIGV4, f"aws:amz:{REGION}:s3")
        curl.setopt(pycurl.USERNAME, KEY)
        curl.setopt(pycurl.PASSWORD, SECRET)
        curl.setopt(pycurl.TIMEOUT, int(PATIENCE))
        curl.perform()
        status = int(curl.getinfo(pycurl.RESPONSE_CODE))
        curl.close()
        return status, body.getvalue()

    def overtake(self, bucket: str, key: str, body: bytes) -> None:
        """Keep an object whose time is a minute ahead: it wins over every write until then."""
        place = ["AUTH_test", bucket.removeprefix("s3://"), key]
        command = [str(BIN / "python"), "-c", OVERTAKE, str(self._etc), *place]
        subprocess.run(command, env=self._environment(), input=body, check=True)

    def start_again(self, name: str) -> None:
        """Run one that was ended, on the port that it had."""
        self._run(name)
        self._wait(name, self._ports[name])

    def signal(self, number: signal.Signals) -> None:
        """To the process that clients talk to."""
        os.killpg(self._processes["proxy"].pid, number)

    def __enter__(self) -> "Swift":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _configure(self) -> None:
        facts = {"etc": self._etc, "folder": self.folder}
        secrets = {"key": KEY, "secret": SECRET, "region": REGION}
        for name in PARTS:
            text = COMMON.format(port=self._ports[name], **facts) + STORAGE.format(name=name)
            (self._etc / f"{name}.conf").write_text(text)
        text = COMMON.format(port=self._ports["proxy"], **facts) + PROXY.format(**secrets)
        (self._etc / "proxy.conf").write_text(text)
        (self._etc / "swift.conf").write_text(SWIFT)
        (self._etc / "s3key.py").write_text(S3KEY)
        ports = {name: self._ports[name] for name in PARTS}
        command = [str(BIN / "python"), "-c", RINGS, json.dumps(ports)]
        subprocess.run(command, cwd=self._etc, env=self._environment(), check=True)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self._etc), "SWIFT_DIR": str(self._etc)}

    def _run(self, name: str) -> None:
        command = [str(BIN / "python"), str(BIN / f"swift-{name}-server")]
        with (self.folder / f"log/{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*command, str(self._etc / f"{name}.conf"), "-v"],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait(self, name: str, port: int) -> None:
        process, end = self._processes[name], time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), PATIENCE).close()
                return
        raise AssertionError((self.folder / f"log/{name}.log").read_text())


def main() -> None:
    """Run one below a folder until it is told to end: ``python -m tests.swift FOLDER``."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with Swift(Path(sys.argv[1]).absolute()) as swift:
        print(json.dumps(swift.environment), flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
