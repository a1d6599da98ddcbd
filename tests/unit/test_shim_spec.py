"""Environment, names and versions: what a runtime may say, and what is refused by name with the spec's code."""

import pytest

from cni.spec import VERSIONS, CniError, Environment, check_version, quoted

GOOD = {
    b"CNI_COMMAND": b"ADD",
    b"CNI_CONTAINERID": b"c0ffee",
    b"CNI_NETNS": b"/run/netns/x",
    b"CNI_IFNAME": b"eth0",
}


def environment(**changes: bytes) -> dict[bytes, bytes]:
    return {**GOOD, **{name.encode(): value for name, value in changes.items()}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CNI_COMMAND", b""),
        ("CNI_COMMAND", b"add"),
        ("CNI_COMMAND", b"REMOVE"),
        ("CNI_CONTAINERID", b""),
        ("CNI_CONTAINERID", b".."),
        ("CNI_CONTAINERID", b"a/b"),
        ("CNI_CONTAINERID", b"-a"),
        ("CNI_CONTAINERID", b"a b"),
        ("CNI_CONTAINERID", "é".encode()),
        ("CNI_CONTAINERID", b"\xff\xfe"),
        ("CNI_CONTAINERID", b"a\n"),
        ("CNI_NETNS", b""),
        ("CNI_NETNS", b"run/netns/x"),
        ("CNI_IFNAME", b""),
        ("CNI_IFNAME", b"."),
        ("CNI_IFNAME", b".."),
        ("CNI_IFNAME", b"a/b"),
        ("CNI_IFNAME", b"a:b"),
        ("CNI_IFNAME", b"a b"),
        ("CNI_IFNAME", b"eth0\t"),
        ("CNI_IFNAME", b"sixteen-bytes-ab"),
        ("CNI_IFNAME", "eéééééééé".encode()),
        ("CNI_IFNAME", b"\xff"),
    ],
)
def test_a_malformed_variable_is_code_4_and_named(name: str, value: bytes):
    with pytest.raises(CniError) as raised:
        Environment(environment(**{name: value}))

    assert raised.value.code == 4
    assert raised.value.message.startswith(name)


@pytest.mark.parametrize("ifname", [b"eth0", b"a", b"fifteen-bytes-a", b"net.100", "é".encode()])
def test_what_the_kernel_takes_as_a_name_is_taken(ifname: bytes):
    assert Environment(environment(CNI_IFNAME=ifname)).ifname == ifname.decode()


@pytest.mark.parametrize("container_id", [b"a", b"0", b"a.b-c_D", b"0123456789abcdef" * 4])
def test_what_the_spec_takes_as_a_container_id_is_taken(container_id: bytes):
    assert Environment(environment(CNI_CONTAINERID=container_id)).container_id == container_id.decode()


def test_del_needs_no_namespace_and_minds_no_odd_one():
    without = environment(CNI_COMMAND=b"DEL", CNI_NETNS=b"somewhere/relative")

    assert Environment(without).verb == "DEL"


@pytest.mark.parametrize("verb", [b"VERSION", b"STATUS", b"GC"])
def test_verbs_that_are_about_no_container_need_only_the_command(verb: bytes):
    assert Environment({b"CNI_COMMAND": verb}).container_id == ""


@pytest.mark.parametrize("version", [None, "0.1.0", "0.3.0", "2.0.0", "", 1, 1.1, ["1.1.0"], {}, True])
def test_an_unknown_version_is_code_1_and_the_known_ones_are_told(version: object):
    with pytest.raises(CniError) as raised:
        check_version(version, "ADD")

    assert raised.value.code == 1
    assert all(known in raised.value.message for known in VERSIONS)


@pytest.mark.parametrize(
    ("verb", "version", "known"),
    [
        ("CHECK", "0.3.1", False),
        ("CHECK", "0.4.0", True),
        ("STATUS", "1.0.0", False),
        ("STATUS", "1.1.0", True),
        ("GC", "1.0.0", False),
        ("GC", "1.1.0", True),
        ("DEL", "0.3.1", True),
    ],
)
def test_a_verb_exists_since_its_version(verb: str, version: str, known: bool):
    if known:
        assert check_version(version, verb) == version
        return
    with pytest.raises(CniError) as raised:
        check_version(version, verb)
    assert raised.value.code == 1


def test_a_long_value_is_cut_in_messages():
    assert len(quoted("x" * 10_000)) < 130
