"""Whose store it is: the record `<root>/cluster`, {"name": …, "layout": 1}. Pure.

Whoever comes first writes it; whoever comes later compares. Two clusters in one store under one root would hand out
each other's addresses and identities, so all requests are refused then, not some.
"""

import json

from services.common.kvstore.keys import LAYOUT


def claim(name: str) -> str:
    """Return the record of a cluster."""
    return json.dumps({"name": name, "layout": LAYOUT}, sort_keys=True)


def objection(key: str, name: str, found: str) -> str:
    """Return why a cluster of that name must not use a store whose record is `found`; empty: it may."""
    try:
        record = json.loads(found)
        owner, layout = str(record["name"]), int(record["layout"])
    except (ValueError, KeyError, TypeError):
        return f"{key} is {found[:80]!r}, which is no record of a cluster: mend it, or set another [kvstore] root"
    if owner != name:
        return (
            f"{key} says that this store belongs to cluster {owner!r}, and [cluster] name here is {name!r}: set the "
            "right one of the two, or another [kvstore] root"
        )
    if layout > LAYOUT:
        return (
            f"{key} says that cluster {owner!r} has layout {layout}, and this podlane knows layouts up to {LAYOUT}: "
            "a newer one is in use, run that one"
        )
    return ""
