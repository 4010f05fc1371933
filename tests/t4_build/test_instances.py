"""Instances: files that people may read and edit, keys that find them, secrets that stay."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from aysfs.build.hrd import Ask, Hrd
from aysfs.build.instances import Instance, Services
from aysfs.build.kinds import NodeSsh, SshKey, Stor, StorClient
from aysfs.errors import (
    Ambiguous,
    AysfsError,
    BadHrd,
    BadName,
    BadRecipe,
    InstanceInUse,
    InstanceMissing,
)

NODE: dict[str, object] = {
    "jumpscale.branch": "ays_unstable",
    "jumpscale.install": False,
    "ssh.port": 22,
    "login": "root",
    "password": "super#'hidden0",
    "ip": "94.23.38.77",
}
CLIENT: dict[str, object] = {"login": "read", "cache": False, "ip": "94.23.38.77", "ssh.port": 22}


@pytest.fixture
def services(tmp_path: Path) -> Services:
    return Services(tmp_path / "services", ssh=tmp_path / "ssh")


def node(services: Services, instance: str = "master") -> Instance:
    return services.new("node.ssh", instance, NODE)


def test_the_manuals_build_servers_are_made(services: Services) -> None:
    key = services.new("sshkey", "build", {"key.name": "ovh_install"})
    master = node(services)
    stor = services.new(
        "ays_stor.ssh", "stor1", {"read.login": "read", "root": "/mnt/data/stor"}, parent=master
    )
    client = services.new("ays_stor_client.ssh", "storclient", CLIENT)
    client.consume(stor)
    tree = sorted(path.relative_to(services.folder) for path in services.folder.rglob("*.hrd"))
    assert list(map(str, tree)) == [
        "ays_stor_client!storclient/instance.hrd",
        "node!master/ays_stor!stor1/instance.hrd",
        "node!master/instance.hrd",
        "sshkey!build/instance.hrd",
    ]
    assert stor.parent == master
    assert master.parent is None
    assert master.view() == NodeSsh("94.23.38.77", 22, "root", "super#'hidden0", "")
    assert stor.view() == Stor("/mnt/data/stor", "read", "write")
    assert client.view() == StorClient("94.23.38.77", 22, "read", False, "/mnt/data/stor")
    assert key.view() == SshKey("ovh_install", "", "")
    assert services.get("ays_stor_client.ssh!storclient").producers("ays_stor") == [stor]


def test_an_instance_is_a_plain_file(services: Services) -> None:
    client = services.new("ays_stor_client.ssh", "c", CLIENT)
    client.consume(services.new("ays_stor.ssh", "s"))
    assert (client.folder / "instance.hrd").read_text() == (
        "cache                          = False\n\n"
        "ip                             = 94.23.38.77\n\n"
        "login                          = read\n\n"
        "producer.ays_stor              =\n"
        "    'jumpscale|ays_stor.ssh!s',\n\n"
        "service.domain                 = jumpscale\n"
        "service.instance               = c\n"
        "service.name                   = ays_stor_client.ssh\n\n"
        "ssh.port                       = 22\n"
    )


def test_defaults_of_the_kinds(services: Services) -> None:
    assert services.new("node.ssh", "a", {"ip": "::1"}).view() == NodeSsh("::1", 22, "root", "", "")
    assert services.new("ays_stor.ssh", "a").view() == Stor("/mnt/data/stor", "read", "write")
    client = services.new("ays_stor_client.ssh", "a", {"tcp.addr": "host"})
    assert client.view() == StorClient("host", 22, "root", False, "/mnt/data/stor")


def test_the_same_again_changes_nothing_and_a_change_is_taken_over(services: Services) -> None:
    first = node(services)
    path = first.folder / "instance.hrd"
    first.hrd.set("extra", "kept")
    first.save()
    before = path.stat().st_ino
    assert node(services) == first
    assert path.stat().st_ino == before
    again = services.new("node.ssh", "master", {"ip": "10.0.0.1"})
    assert path.stat().st_ino != before
    assert again.hrd.get_str("ip") == "10.0.0.1"
    assert again.hrd.get_str("extra") == "kept"
    assert len(services.list()) == 1


@pytest.mark.parametrize(
    "key",
    ["node.ssh!master", "NODE.SSH!Master", "node!master", "!master", "jumpscale|node.ssh", "@node"],
)
def test_an_instance_is_found_by_any_part_of_its_key(services: Services, key: str) -> None:
    services.new("sshkey", "build", {"key.name": "k"})
    master = node(services)
    assert services.get(key) == master


def test_no_match_and_several_are_each_one_line_with_the_candidates(services: Services) -> None:
    with pytest.raises(InstanceMissing, match=r"no service instance `x`; there are: none"):
        services.get("x")
    node(services)
    node(services, "second")
    with pytest.raises(InstanceMissing, match=r"there are: .*node\.ssh!master, .*node\.ssh!second"):
        services.get("node.ssh!third")
    with pytest.raises(Ambiguous, match=r"`node\.ssh` fits several .*!master .*!second"):
        services.get("node.ssh")


def test_any_template_may_have_instances(services: Services) -> None:
    redis = services.new("redis", args={"anything": ["a", 1]}, domain="acme")
    assert str(redis) == "acme|redis!main"
    assert redis.view() is None
    assert services.get("acme|redis").hrd.get_list("anything") == ["a", 1]


@pytest.mark.parametrize(
    ("name", "args", "reason"),
    [
        ("node.ssh", {}, "`ip` is not given"),
        ("node.ssh", {"ip": "-oProxyCommand=x"}, "`ip` cannot be `-oProxyCommand=x`"),
        ("node.ssh", {"ip": "h", "ssh.port": "many"}, "`ssh.port` is no whole number"),
        ("node.ssh", {"ip": "h", "ssh.port": 70000}, "`ssh.port` is no port"),
        ("node.ssh", {"ip": "h", "login": "-l"}, "`login` cannot be"),
        ("ays_stor.ssh", {"root": "/"}, "`root` must be an absolute path below"),
        ("ays_stor.ssh", {"root": "/a/../b"}, "`root` must be"),
        ("ays_stor_client.ssh", {"ip": "h", "cache": "perhaps"}, "`cache` is neither"),
        ("sshkey", {"key.name": "../x"}, "`key.name` cannot be"),
        ("any", {"x y": 1}, "bad key `x y`"),
    ],
)
def test_wrong_fields_of_a_known_kind_leave_nothing_behind(
    services: Services, name: str, args: dict[str, object], reason: str
) -> None:
    with pytest.raises(BadHrd) as caught:
        services.new(name, "x", args)
    assert reason in str(caught.value)
    assert services.list() == []
    assert not services.folder.exists()


@pytest.mark.parametrize(
    ("name", "instance"), [("../x", "a"), ("x", "../a"), ("x!y", "a"), ("", "a")]
)
def test_names_that_would_leave_the_folder_are_refused(
    services: Services, name: str, instance: str
) -> None:
    with pytest.raises(BadName):
        services.new(name, instance)
    assert not services.folder.exists()


def test_two_templates_of_one_role_do_not_share_a_folder(services: Services) -> None:
    node(services)
    with pytest.raises(BadRecipe, match=r"holds an instance of `node\.ssh`, not of `node\.other`"):
        services.new("node.other", "master")


def test_a_schema_asks_only_for_what_nobody_has_answered(services: Services) -> None:
    schema = Hrd.parse("port = @ASK type:int default:80\nname = @ASK\nfixed = $(port)/x\n")
    asked = []

    def ask(key: str, question: Ask) -> str:
        asked.append(key)
        return "8080"

    for _ in range(2):
        app = services.new("app", args={"name": "given"}, schema=schema, ask=ask)
        assert [app.hrd.get(key) for key in ("port", "name", "fixed")] == [8080, "given", "8080/x"]
    assert asked == ["port"]
    with pytest.raises(BadHrd, match=r"`name` needs an answer"):
        services.new("app", "second", schema=schema)


# --- consuming and deleting --------------------------------------------------------------


def test_producers_are_given_as_keys_or_objects_and_grouped_by_role(services: Services) -> None:
    master, second = node(services), node(services, "second")
    stor = services.new("ays_stor.ssh", "s")
    app = services.new("app")
    app.consume("node.ssh!master, node!second")
    app.consume([stor, "node!second"])
    assert app.producers() == [stor, master, second]
    assert app.producers("node") == [master, second]
    assert services.get("app").producers() == app.producers()
    assert list(services.consumers(stor)) == [app]


def test_a_client_takes_over_where_its_store_is(services: Services) -> None:
    stor = services.new("ays_stor.ssh", "s", {"root": "/srv/stor"})
    client = services.new("ays_stor_client.ssh", "c", CLIENT)
    client.consume(stor)
    kind = services.get("!c").view()
    assert isinstance(kind, StorClient)
    assert kind.root == "/srv/stor"


def test_what_is_not_there_or_itself_cannot_be_consumed(services: Services) -> None:
    app = services.new("app")
    with pytest.raises(InstanceMissing):
        app.consume("node!x")
    with pytest.raises(BadRecipe, match="cannot consume itself"):
        app.consume(app)
    assert services.get("app").producers() == []


def test_what_is_consumed_is_deleted_only_by_force(services: Services) -> None:
    master = node(services)
    stor = services.new("ays_stor.ssh", "s", parent="node!master")
    client = services.new("ays_stor_client.ssh", "c", CLIENT)
    client.consume(stor)
    for key in ("ays_stor.ssh!s", "node!master"):
        with pytest.raises(InstanceInUse, match=r"is consumed by .*_client\.ssh!c"):
            services.delete(key)
    services.delete(master, force=True)
    assert services.list() == [client]
    services.delete("!c")
    assert services.list() == []


def test_a_parent_goes_with_children_that_only_use_each_other(services: Services) -> None:
    node(services)
    child = services.new("app", parent="node!master")
    child.consume("node!master")
    services.delete("node!master")
    assert services.list() == []


# --- secrets -----------------------------------------------------------------------------


def modes(below: Path) -> set[str]:
    return {
        f"{'d' if path.is_dir() else 'f'}{stat.S_IMODE(path.stat().st_mode):o}"
        for path in (below, *below.rglob("*"))
    }


def test_only_the_owner_can_read_instances(services: Services) -> None:
    old = os.umask(0)
    try:
        stor = services.new("ays_stor.ssh", "s", parent=node(services))
        services.new("app").consume(stor)
    finally:
        os.umask(old)
    assert modes(services.folder) == {"d700", "f600"}


def test_secrets_are_kept_and_never_shown(services: Services) -> None:
    args = {**NODE, "key.pass": "hidden1", "deep": {"passwd": "hidden2"}, "url": "http://u:hid@h/"}
    master = services.new("node.ssh", "m", args)
    kept = services.get("!m")
    assert kept.hrd.get_str("password") == "super#'hidden0"
    assert kept.hrd.get_dict("deep") == {"passwd": "hidden2"}
    for shown in (str(kept), repr(kept), str(kept.hrd), repr(kept.hrd), repr(kept.view())):
        assert "hid" not in shown
    fields = master.fields()
    assert fields["password"] == fields["key.pass"] == "****"
    assert fields["deep"] == "passwd:****"
    assert fields["url"] == "http://****@h/"
    assert fields["ip"] == "94.23.38.77"


def fingerprint(key: Path) -> str:
    command = ["ssh-keygen", "-y", "-P", "", "-f", str(key)]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def test_a_key_that_is_nowhere_is_made_once(services: Services) -> None:
    made = services.new("sshkey", "build", {"key.name": "ovh"})
    path = made.private_key()
    assert path == made.folder / "ovh"
    assert fingerprint(path).startswith("ssh-ed25519 ")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    data = path.read_bytes()
    services.new("sshkey", "build", {"key.name": "ovh"})
    assert path.read_bytes() == data
    assert sorted(one.name for one in made.folder.iterdir()) == ["instance.hrd", "ovh", "ovh.pub"]


def test_a_persons_own_key_is_used_where_there_is_one(services: Services, tmp_path: Path) -> None:
    own = tmp_path / "ssh" / "mine"
    own.parent.mkdir()
    own.write_text("a key\n")
    made = services.new("sshkey", "build", {"key.name": "mine"})
    assert made.private_key() == own
    assert [one.name for one in made.folder.iterdir()] == ["instance.hrd"]


def test_a_key_given_as_text_is_kept_in_the_instance(services: Services, tmp_path: Path) -> None:
    source = services.new("sshkey", "a", {"key.name": "k"}).private_key()
    assert source is not None
    text = source.read_text()
    made = services.new("sshkey", "b", {"key.name": "k2", "key.priv": text})
    path = services.get("sshkey!b").private_key()
    assert path == made.folder / "k2"
    assert fingerprint(path) == fingerprint(source)
    assert made.fields()["key.priv"] == "****"


def test_without_ssh_keygen_the_key_is_refused_with_what_to_install(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(AysfsError, match="ssh-keygen is not installed") as caught:
        services.new("sshkey", "build", {"key.name": "k"})
    assert caught.value.hint is not None


def test_a_file_that_somebody_broke_is_refused_with_its_line(services: Services) -> None:
    path = node(services).folder / "instance.hrd"
    path.write_text(path.read_text() + "password = 'hunter2\n")
    with pytest.raises(BadHrd, match=r"instance\.hrd:\d+:12: the quote is not closed") as caught:
        services.list()
    assert "hunter2" not in str(caught.value)


def test_an_empty_services_folder_has_no_instances(tmp_path: Path) -> None:
    assert Services(tmp_path / "none").list() == []
    (tmp_path / "x!y").mkdir()
    (tmp_path / "file!y").write_text("")
    assert Services(tmp_path).list() == []
    assert Hrd().keys() == []
