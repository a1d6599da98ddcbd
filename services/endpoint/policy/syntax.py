"""What Kubernetes accepts as a name, a label, a port name, an address prefix. Pure.

Each function returns what is wrong as the end of a sentence, or None. The rules are those of the API server
(apimachinery's `validation`, and "Object Names and IDs" and "Labels and Selectors" of its documentation).
"""

import re
from ipaddress import IPv6Network, ip_network

from services.common.model import Network

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS_NAME = re.compile(rf"{_DNS_LABEL.pattern}(\.{_DNS_LABEL.pattern})*")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
# A source may be in front, as in `k8s:app`; those of other sources than Kubernetes need not be its keys.
_ENDPOINT_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:/\-]*[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_CIDR = re.compile(r"[0-9A-Fa-f:.]+/[0-9]{1,3}")
_LONGEST_SHOWN = 80
_LONGEST_ENDPOINT_LABEL = 317

RESERVED = "reserved:"
"""The source of labels that podlane alone gives."""


def quoted(text: str) -> str:
    """Return a text as errors show it: quoted, and cut where nobody reads on."""
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…")


def dns_label(text: str) -> str | None:
    """Judge the name of a namespace."""
    if len(text) <= 63 and _DNS_LABEL.fullmatch(text):
        return None
    return f"{quoted(text)} is no name: 1-63 lower-case letters, digits and '-', with a letter or digit at both ends"


def dns_name(text: str) -> str | None:
    """Judge the name of a policy or a pod, and the prefix of a label's key."""
    if len(text) <= 253 and _DNS_NAME.fullmatch(text):
        return None
    return (
        f"{quoted(text)} is no name: 1-253 lower-case letters, digits, '-' and '.', "
        "with a letter or digit at both ends and around each '.'"
    )


def label_key(text: str) -> str | None:
    """Judge a label's key."""
    prefix, slash, name = text.rpartition("/")
    if slash and dns_name(prefix):
        return f"{quoted(text)} is no label key: before '/' must stand a DNS name in lower case"
    if len(name) <= 63 and _LABEL_NAME.fullmatch(name):
        return None
    return (
        f"{quoted(text)} is no label key: 1-63 letters, digits, '-', '_' and '.', "
        "with a letter or digit at both ends, perhaps after a DNS name and '/'"
    )


def label_value(text: str) -> str | None:
    """Judge a label's value, which may be empty."""
    if not text or (len(text) <= 63 and _LABEL_NAME.fullmatch(text)):
        return None
    return (
        f"{quoted(text)} is no label value: at most 63 letters, digits, '-', '_' and '.', "
        "with a letter or digit at both ends"
    )


def endpoint_label_key(text: str) -> str | None:
    """Judge the key of a label that an endpoint is given, perhaps with its source: `app`, `k8s:app`."""
    if text.startswith(RESERVED):
        return f"labels that begin with {RESERVED!r} are podlane's own"
    if len(text) <= _LONGEST_ENDPOINT_LABEL and _ENDPOINT_LABEL.fullmatch(text):
        return None
    return (
        f"{quoted(text)} is no label key: 1-{_LONGEST_ENDPOINT_LABEL} letters, digits, '_', '.', ':', '/' and '-', "
        "with a letter or digit at both ends"
    )


def port_name(text: str) -> str | None:
    """Judge the name of a port (IANA service name)."""
    if len(text) <= 15 and _PORT_NAME.fullmatch(text) and not text.replace("-", "").isdigit():
        return None
    return (
        f"{quoted(text)} is no port name: 1-15 lower-case letters, digits and single '-', "
        "at least one letter, with a letter or digit at both ends"
    )


def port_number(number: int) -> str | None:
    """Judge a port."""
    return None if 1 <= number <= 65535 else f"{number} is no port: 1-65535"


def cidr(text: str) -> Network | str:
    """Return the prefix that a text means, host bits cleared as the API server does it, or what is wrong with it."""
    try:
        network = ip_network(text, strict=False) if _CIDR.fullmatch(text) else None
    except ValueError:
        network = None
    if network is None:
        return f"{quoted(text)} is no CIDR: an address and a prefix length, as 10.0.0.0/8 or 2001:db8::/32"
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped and network.prefixlen >= 96:
        return f"{quoted(text)} is an IPv4-mapped prefix, which no packet's address is in: write it as IPv4"
    return network


def has_host_bits(text: str) -> bool:
    """Return whether a CIDR has bits set that its length leaves out."""
    try:
        ip_network(text)
    except ValueError:
        return True
    return False
