"""The nftables rules that a node's pod ranges give."""

from ipaddress import ip_network

from services.loader.masquerade import rules


def test_each_family_has_its_set_and_its_rule():
    text = rules([ip_network("10.0.0.0/24"), ip_network("10.2.0.0/24"), ip_network("fd00::/112")])

    assert "elements = { 10.0.0.0/24, 10.2.0.0/24 }" in text
    assert "elements = { fd00::/112 }" in text
    assert "ip saddr @pods4 ip daddr != @pods4 masquerade" in text
    assert "ip6 saddr @pods6 ip6 daddr != @pods6 masquerade" in text


def test_a_family_without_ranges_is_not_mentioned():
    """nft refuses a rule about a set that isn't there."""
    assert "pods6" not in rules([ip_network("10.0.0.0/24")])


def test_what_goes_to_pods_and_to_the_router_device_is_let_alone_first():
    text = rules([ip_network("10.0.0.0/24")])

    assert text.index('oifname "lxc*" return') < text.index("masquerade")
    assert text.index('oifname "podlane_*" return') < text.index("masquerade")
