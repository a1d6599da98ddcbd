"""The configuration's keys: what is read, what is refused by name, what is ignored."""

import json
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import jsontext
from cni.config import Config, LinkConfig, parse
from cni.spec import CniError, Environment

BASE = {"cniVersion": "1.1.0", "name": "podlane", "type": "podlane"}


def environment(arguments: str = "") -> Environment:
    return Environment(
        {
            b"CNI_COMMAND": b"ADD",
            b"CNI_CONTAINERID": b"c",
            b"CNI_NETNS": b"/n",
            b"CNI_IFNAME": b"eth0",
            b"CNI_ARGS": arguments.encode(),
        }
    )


def link_config(arguments: str = "", **keys: Any) -> LinkConfig:
    return LinkConfig({**BASE, **keys}, environment(arguments))


def refusal(**keys: Any) -> CniError:
    document = {**BASE, **keys}
    with pytest.raises(CniError) as raised:
        LinkConfig(Config(document, "ADD").document, environment())
    return raised.value


def test_defaults_are_those_of_the_services():
    config, asked = Config(dict(BASE), "ADD"), link_config()

    assert config.sockets["ipam"] == "/run/podlane/ipam/ipam.sock"
    assert config.sockets["endpoint"] == "/run/podlane/endpoint/endpoint.sock"
    assert config.timeout == 60
    assert (asked.mtu, asked.route_mtu, asked.pool, asked.offload, asked.labels) == (0, 0, "", {}, {})
    assert (asked.mac, asked.requested, asked.dns) == (b"", [], {})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", ""),
        ("name", None),
        ("name", 5),
        ("name", "a/b"),
        ("name", "-a"),
        ("name", "é"),
        ("mtu", "1500"),
        ("mtu", 1500.5),
        ("mtu", True),
        ("mtu", -1),
        ("mtu", 1 << 32),
        ("mtu", None),
        ("routeMtu", []),
        ("pool", 1),
        ("gsoMaxSize", "big"),
        ("groMaxSize", {}),
        ("gsoIpv4MaxSize", -5),
        ("groIpv4MaxSize", 1e3),
        ("ipamSocket", 1),
        ("loaderSocket", "relative.sock"),
        ("endpointSocket", "/" + "x" * 107),
        ("endpointSocket", "/a\0b"),
        ("timeoutSeconds", 0),
        ("timeoutSeconds", -1),
        ("timeoutSeconds", "10"),
        ("timeoutSeconds", True),
        ("timeoutSeconds", 1e9),
        ("journalDir", "relative"),
        ("journalDir", 5),
        ("logFile", "relative"),
        ("logFile", 5),
        ("logLevel", "loud"),
        ("labels", []),
        ("labels", {"app": 1}),
        ("labels", {"app": "\ud800"}),
        ("args", None),
        ("args", []),
        ("pool", "\udfff"),
        ("dns", []),
        ("runtimeConfig", []),
    ],
)
@pytest.mark.cni("CONF-2")
def test_an_ill_typed_key_is_code_7_and_named(key: str, value: Any):
    error = refusal(**{key: value})

    assert error.code == 7
    assert error.message.startswith(key)


@pytest.mark.parametrize(
    ("runtime", "named"),
    [
        ({"mac": 1}, "runtimeConfig.mac"),
        ({"mac": "02:00"}, "runtimeConfig.mac"),
        ({"mac": "02:00:00:00:00:zz"}, "runtimeConfig.mac"),
        ({"mac": "2:0:0:0:0:1"}, "runtimeConfig.mac"),
        ({"ips": "10.0.0.1"}, "runtimeConfig.ips"),
        ({"ips": [1]}, "runtimeConfig.ips"),
        ({"ips": ["10.0.0"]}, "runtimeConfig.ips"),
        ({"ips": ["10.0.0.1/33"]}, "runtimeConfig.ips"),
        ({"ips": ["10.0.0.1/"]}, "runtimeConfig.ips"),
        ({"ips": ["10.0.0.1/" + "9" * 5000]}, "runtimeConfig.ips"),
        ({"ips": ["10.0.0.1\0"]}, "runtimeConfig.ips"),
        ({"ips": ["10.0.0.1", "10.0.0.2"]}, "more than one IPv4"),
        ({"ips": ["fd00::1", "fd00::2/64"]}, "more than one IPv6"),
    ],
)
def test_ill_typed_runtime_config_is_code_7_and_named(runtime: dict[str, Any], named: str):
    error = refusal(runtimeConfig=runtime)

    assert error.code == 7
    assert named in error.message


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("K8S_POD_NAME", "KEY=VALUE"),
        ("UNHEARD=1", "UNHEARD"),
        ("IgnoreUnknown=0;UNHEARD=1", "UNHEARD"),
        ("IP=somewhere", "IP"),
        ("MAC=short", "MAC"),
    ],
)
def test_malformed_cni_args_are_code_4_and_named(arguments: str, named: str):
    with pytest.raises(CniError) as raised:
        link_config(arguments)

    assert raised.value.code == 4
    assert "CNI_ARGS" in raised.value.message
    assert named in raised.value.message


def test_cni_args_name_the_pod_its_address_and_its_mac():
    asked = link_config(
        "IgnoreUnknown=true;OTHER=x;;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;K8S_POD_UID=u=1;"
        "IP=10.0.0.7/24,fd00::7;MAC=02:00:00:00:00:0A"
    )

    assert asked.pod == {"namespace": "ns", "name": "web", "uid": "u=1"}
    assert asked.requested == [b"\x0a\x00\x00\x07", socket.inet_pton(socket.AF_INET6, "fd00::7")]
    assert asked.mac == bytes.fromhex("02000000000a")


def test_runtime_config_goes_before_cni_args():
    asked = link_config(
        "IP=10.0.0.7;MAC=02:00:00:00:00:0a", runtimeConfig={"ips": ["10.0.0.8/24"], "mac": "02:00:00:00:00:0b"}
    )

    assert asked.requested == [b"\x0a\x00\x00\x08"]
    assert asked.mac[-1] == 0x0B


def test_labels_of_the_pod_go_before_those_of_the_network():
    said = {"cni": {"labels": [{"key": "app", "value": "web"}, {"key": "example.com/empty", "value": ""}]}}

    asked = link_config(labels={"app": "any", "site": "a"}, args=said)

    assert asked.labels == {"app": "web", "site": "a", "example.com/empty": ""}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"cni": 1}, "args.cni must be"),
        ({"cni": {"labels": {"app": "web"}}}, "args.cni.labels must be"),
        ({"cni": {"labels": ["app=web"]}}, "args.cni.labels[0] must be"),
        ({"cni": {"labels": [{"key": "a"}, {"key": 5, "value": "web"}]}}, "args.cni.labels[1].key must be"),
        ({"cni": {"labels": [{"key": "app", "value": None}]}}, "args.cni.labels[0].value must be"),
        ({"cni": {"labels": [{"key": "app", "value": "\ud800"}]}}, "args.cni.labels[0].value "),
        ({"cni": {"labels": [{"value": "web"}]}}, "args.cni.labels[0].key is missing"),
        ({"cni": {"labels": [{"key": "a"}, {"key": "a"}]}}, "args.cni.labels[1].key 'a' is there twice"),
    ],
)
def test_ill_typed_labels_of_the_pod_are_code_7_and_named(arguments: Any, named: str):
    error = refusal(args=arguments)

    assert error.code == 7
    assert error.message.startswith(named)


@pytest.mark.cni("CONF-4")
def test_unknown_keys_are_ignored():
    document = {
        **BASE,
        "ipam": {"type": 5},
        "capabilities": 1,
        "unheardOf": [1, 2],
        "args": {"cni": {"ips": 5}, "x": 1},
    }

    assert Config(document, "ADD").network == "podlane"
    LinkConfig(document, environment())


def test_what_only_an_add_needs_does_not_stop_a_del():
    assert Config({**BASE, "mtu": "wrong", "runtimeConfig": 5}, "DEL").network == "podlane"


@pytest.mark.parametrize(
    ("stdin", "named"),
    [
        (b"", "nothing"),
        (b" \n", "nothing"),
        (b"not json", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b'{"a": NaN}', "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b"{} {}", "not JSON"),
        (b"[]", "object"),
        (b'"text"', "object"),
        (b"null", "object"),
        (b"x" * (1 << 20), "1048576 bytes"),
        (b'{"a":' + b"9" * 10_000 + b"}", "not JSON"),
    ],
)
def test_stdin_that_is_no_object_is_code_6_and_told_shortly(stdin: bytes, named: str):
    with pytest.raises(CniError) as raised:
        parse(stdin)

    assert raised.value.code == 6
    assert named in raised.value.message
    assert len(raised.value.message) < 400


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON, st.sampled_from(["", " ", "\r\n\t"]), st.booleans())
def test_json_is_read_and_written_as_the_package_does_it(value: Any, blanks: str, ascii_only: bool):
    text = blanks + json.dumps(value, ensure_ascii=ascii_only) + blanks

    assert jsontext.loads(text) == json.loads(text)
    assert jsontext.dumps(value) == json.dumps(value)


@given(st.text(max_size=30))
def test_json_that_is_none_is_refused_as_the_package_does_it(text: str):
    def outcome(loads: Any) -> Any:
        try:
            return loads(text)
        except ValueError:
            return ValueError

    mine, theirs = outcome(jsontext.loads), outcome(json.loads)
    assert mine == theirs or (mine is ValueError and any(word in text for word in ("NaN", "Infinity")))


def test_without_the_c_scanner_the_package_does_the_work(monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "_json", None)

    assert jsontext.loads('{"a": [1]}') == {"a": [1]}
    assert jsontext.dumps({"a": [1]}) == '{"a": [1]}'
