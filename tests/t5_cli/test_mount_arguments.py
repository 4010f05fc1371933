"""``mount.aysfs``: what mount(8) and fstab say, as arguments of ``aysfs mount``."""

import pytest

from aysfs.cli.mount_helper import translate
from aysfs.cli.mounting import split_options
from aysfs.errors import BadConfig
from tests.t5_cli.conftest import Host


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("redis /opt/redis", "mount -- redis /opt/redis"),
        ("redis /opt/redis -o rw", "mount -- redis /opt/redis"),
        ("redis /opt/redis -o rw,store=/s", "mount --store /s -- redis /opt/redis"),
        ("redis /opt/redis -n -s -v -r", "mount -- redis /opt/redis"),
        ("redis /opt/redis -t aysfs -o ro", "mount -o ro -- redis /opt/redis"),
        ("redis,acme__web /srv", "mount -- redis acme__web /srv"),
        (
            "redis /srv -o ro,store=/s,noatime,cache=/c",
            "mount --store /s --cache /c -o ro,noatime -- redis /srv",
        ),
        (
            "redis /srv -o base=/opt/redis -o engine=fuse,log-level=debug",
            "mount --base /opt/redis --engine fuse --log-level debug -- redis /srv",
        ),
        ("redis /srv -o store=file:///s?a=b", "mount --store file:///s?a=b -- redis /srv"),
        ("redis /srv -o ,,", "mount -- redis /srv"),
        ("-o allow_other redis /srv", "mount -o allow_other -- redis /srv"),
    ],
)
def test_arguments_of_mount_8(line: str, expected: str) -> None:
    assert translate(line.split()) == expected.split()


def test_an_argument_keeps_its_blanks() -> None:
    arguments = translate(["redis", "/srv/a b", "-o", "store=/s t"])
    assert arguments == ["mount", "--store", "/s t", "--", "redis", "/srv/a b"]


def test_a_directory_that_looks_like_an_option_is_none() -> None:
    assert translate(["redis", "/srv", "-o", "--evil"]) == [
        *("mount", "-o", "--evil", "--", "redis", "/srv")
    ]


def test_a_fake_mount_does_nothing() -> None:
    assert translate(["redis", "/srv", "-f", "-o", "ro"]) is None


def test_without_arguments_the_usage_is_told(host: Host) -> None:
    arguments = translate([])
    assert arguments is not None
    done = host.run(*arguments)
    assert done.code == 2
    assert "Error: Missing argument" in done.err


def test_options_for_others_are_left_out_and_the_rest_is_fuses() -> None:
    options = ("ro,noauto,user,nofail,_netdev,defaults", "x-systemd.automount,nodev", "max_read=9")
    assert split_options(options) == (("nodev", "max_read=9"), False)
    assert split_options(("allow_other,ro",)) == ((), True)
    assert split_options(()) == ((), False)
    generic = (
        "relatime,strictatime,lazytime,noatime,nodiratime,users,owner,group,comment=a b,x-gvfs"
    )
    assert split_options((generic, "suid,dev,noexec")) == (("suid", "dev", "noexec"), False)


@pytest.mark.parametrize("word", ["rw", "remount", "bind"])
def test_options_that_cannot_be_kept_are_refused(word: str) -> None:
    with pytest.raises(BadConfig, match=f"^-o {word}: a mount is read-only and new$"):
        split_options((f"ro,{word}",))
