"""Settings: file, environment, derived paths; a typo never becomes a default."""

from pathlib import Path

import pytest

from services.common import config, configfile
from services.common.errors import InvalidArgument


def load(tmp_path: Path, text: str, **environment: str) -> config.Settings:
    (tmp_path / "podlane.toml").write_text(text)
    return configfile.load(tmp_path / "podlane.toml", environment)


def test_without_file_and_environment_there_are_defaults():
    settings = configfile.load(None, {})

    assert settings.ipam.cooldown_seconds == 30.0
    assert settings.ipam.socket == Path("/run/podlane/ipam/ipam.sock")
    assert settings.ipam.database == Path("/var/lib/podlane/ipam.sqlite")
    assert settings.loader.state_dir == Path("/run/podlane/state")
    assert [pool.name for pool in settings.ipam.pools] == ["default"]


def test_paths_follow_the_nodes_directories_unless_they_are_set(tmp_path: Path):
    text = '[node]\nrun_dir = "/a"\nlib_dir = "/b"\n[endpoint]\nsocket = "/c/e.sock"\n'

    settings = load(tmp_path, text)

    assert settings.ipam.socket == Path("/a/ipam/ipam.sock")
    assert settings.endpoint.socket == Path("/c/e.sock")
    assert settings.endpoint.database == Path("/b/endpoint.sqlite")


def test_metrics_are_on_a_socket_of_their_own_unless_told_otherwise(tmp_path: Path):
    text = '[node]\nrun_dir = "/a"\n[loader]\nmetrics_listen = "127.0.0.1:9961"\n[endpoint]\nmetrics_listen = ""\n'

    settings = load(tmp_path, text)

    assert settings.ipam.metrics_listen == "/a/ipam/metrics.sock"
    assert settings.loader.metrics_listen == "127.0.0.1:9961"
    assert settings.endpoint.metrics_listen == ""


def test_pools_are_an_array_of_tables(tmp_path: Path):
    text = '[[ipam.pools]]\nname = "a"\nranges = ["10.0.0.0/24"]\nexclude = ["10.0.0.9"]\nmtu = 1400\n'

    assert load(tmp_path, text).ipam.pools == (config.PoolSettings("a", ("10.0.0.0/24",), ("10.0.0.9",), 1400),)


def test_a_pool_has_ranges_or_the_clusters(tmp_path: Path):
    text = (
        '[[ipam.pools]]\nname = "a"\ncluster_ranges = ["10.0.0.0/16"]\nnode_prefix_v4 = 26\nspare = 4\n'
        "release_after_seconds = 60\n"
    )

    (pool,) = load(tmp_path, text).ipam.pools

    assert (pool.ranges, pool.cluster_ranges) == ((), ("10.0.0.0/16",))
    assert (pool.node_prefix_v4, pool.node_prefix_v6, pool.spare, pool.release_after_seconds) == (26, 112, 4, 60.0)


def test_the_environment_overrides_the_file(tmp_path: Path):
    settings = load(
        tmp_path,
        '[ipam]\ncooldown_seconds = 9\n[node]\nname = "file"\n',
        PODLANE_IPAM_COOLDOWN_SECONDS="5.5",
        PODLANE_NODE_RUN_DIR="/elsewhere",
        PODLANE_LOADER_MASQUERADE="no",
        PODLANE_LOADER_MTU="1450",
        PODLANE_UNRELATED="x",
    )

    assert settings.ipam.cooldown_seconds == 5.5
    assert settings.node.name == "file"
    assert settings.loader.socket == Path("/elsewhere/loader/loader.sock")
    assert settings.loader.masquerade is False
    assert settings.loader.mtu == 1450


def test_podlane_config_names_the_file(tmp_path: Path):
    (tmp_path / "x.toml").write_text("[ipam]\ncooldown_seconds = 1\n")

    assert configfile.load(None, {"PODLANE_CONFIG": str(tmp_path / "x.toml")}).ipam.cooldown_seconds == 1.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[ipam]\ncooldown = 5\n", "[ipam] cooldown: unknown key; there are socket, database, cooldown_seconds"),
        ("[ipan]\n", "unknown table 'ipan'; there are node, ipam, loader, endpoint"),
        ("ipam = 5\n", "ipam must be a table"),
        ('[ipam]\ncooldown_seconds = "5"\n', "cooldown_seconds: '5' must be of type float"),
        ("[ipam]\ncooldown_seconds = true\n", "cooldown_seconds: True must be of type float"),
        ("[loader]\nmtu = true\n", "mtu: True must be of type int"),
        ("[loader]\nmtu = 1500.5\n", "mtu: 1500.5 must be of type int"),
        ("[loader]\nmasquerade = 1\n", "masquerade: 1 must be of type bool"),
        ("[node]\nrun_dir = 5\n", "run_dir: 5 must be of type Path"),
        ("[ipam]\npools = 5\n", "pools: must be an array of tables"),
        ('[[ipam.pools]]\nname = "a"\n', "pools[0]: needs ranges"),
        ("[[ipam.pools]]\n", "pools[0]: needs name and ranges"),
        ('[[ipam.pools]]\nname = "a"\nranges = "10.0.0.0/8"\n', "pools[0] ranges: must be an array of strings"),
        ('[[ipam.pools]]\nname = "a"\nranges = []\ncidr = ""\n', "pools[0] cidr: unknown key"),
        ("[ipam\n", "not TOML"),
        ("\x00", "not TOML"),
    ],
)
def test_what_is_wrong_in_the_file_is_refused_by_name(tmp_path: Path, text: str, words: str):
    with pytest.raises(InvalidArgument) as refused:
        load(tmp_path, text)

    assert words in refused.value.message
    assert str(tmp_path / "podlane.toml") in refused.value.message


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("PODLANE_LOADER_MTU", "big", "PODLANE_LOADER_MTU: 'big' is not a number"),
        ("PODLANE_IPAM_COOLDOWN_SECONDS", "", "PODLANE_IPAM_COOLDOWN_SECONDS: '' is not a number"),
        ("PODLANE_LOADER_MASQUERADE", "maybe", "PODLANE_LOADER_MASQUERADE: 'maybe' is neither true nor false"),
    ],
)
def test_what_is_wrong_in_the_environment_is_refused_by_name(variable: str, value: str, words: str):
    with pytest.raises(InvalidArgument) as refused:
        configfile.load(None, {variable: value})

    assert words in refused.value.message


def test_a_file_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(InvalidArgument, match="cannot be read: No such file"):
        configfile.load(tmp_path / "none.toml", {})


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    (tmp_path / "podlane.toml").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(InvalidArgument, match="not TOML"):
        configfile.load(tmp_path / "podlane.toml", {})
