"""The messages of rtnetlink about routing rules. Pure; see rtnl.py. Numbers are from linux/fib_rules.h."""

import errno
import socket
import struct
from ipaddress import ip_address

from services.loader.linkspec import Rule
from services.loader.netlink_messages import NLM_F_CREATE, NLM_F_EXCL, Request, attribute, attributes, number, text, u32
from services.loader.rtnl import GONE

RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
# family, dst_len, src_len, tos, table, two reserved, action, flags
_RULE = struct.Struct("=BBBBBBBBI")
_FR_ACT_TO_TBL = 1
_FRA_SRC, _FRA_PRIORITY, _FRA_TABLE, _FRA_OIFNAME = 2, 6, 15, 17
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
# Before the main table's rule (32766).
_PRIORITY = 1000
_THERE = frozenset({errno.EEXIST})
_NOT_THERE = GONE | {errno.ENOENT, errno.EADDRNOTAVAIL}


def add(rule: Rule) -> Request:
    """Add a rule; there already is success."""
    return _request(RTM_NEWRULE, rule, NLM_F_CREATE | NLM_F_EXCL, _THERE)


def delete(rule: Rule) -> Request:
    """Remove a rule; already gone is success."""
    return _request(RTM_DELRULE, rule, 0, _NOT_THERE)


def _request(kind: int, rule: Rule, flags: int, tolerate: frozenset[int]) -> Request:
    length = rule.source.max_prefixlen if rule.source is not None else 0
    parts = [
        _RULE.pack(_FAMILIES[rule.version], 0, length, 0, 0, 0, 0, _FR_ACT_TO_TBL, 0),
        u32(_FRA_TABLE, rule.table),
        u32(_FRA_PRIORITY, _PRIORITY),
    ]
    if rule.source is not None:
        parts.append(attribute(_FRA_SRC, rule.source.packed))
    if rule.ifname:
        parts.append(text(_FRA_OIFNAME, rule.ifname))
    return Request(kind, b"".join(parts), flags, ("rule", rule), tolerate)


def dump(version: int) -> Request:
    """List a family's rules."""
    head = _RULE.pack(_FAMILIES[version], 0, 0, 0, 0, 0, 0, 0, 0)
    return Request(RTM_GETRULE, head, about=f"the list of IPv{version} rules")


def read(body: bytes) -> Rule:
    """Read a rule."""
    family, _, _, _, table, *_ = _RULE.unpack_from(body)
    found = attributes(body, _RULE.size)
    return Rule(
        4 if family == socket.AF_INET else 6,
        number(found[_FRA_TABLE]) if _FRA_TABLE in found else table,
        ip_address(found[_FRA_SRC]) if _FRA_SRC in found else None,
        found.get(_FRA_OIFNAME, b"").rstrip(b"\0").decode(),
    )
