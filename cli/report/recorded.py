"""Files → model: what databases and the state directory had on disk, where a service hasn't told it itself. Pure.

A file that wasn't read is None or nothing, never a mistake. Columns are those of the databases' schemas.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cli.report.model import READY, Allocation, Endpoint, Link, Owner


def row_owner(row: Mapping[str, Any]) -> Owner:
    """Return whose a row is."""
    return row["network"], row["container_id"], row["ifname"]


def table_of(members: Mapping[str, Any], database: str, table: str) -> Sequence[Any]:
    """Return the rows of a table, none when its database wasn't read."""
    found: Sequence[Any] = (members.get(f"files/{database}.json") or {}).get(table, ())
    return found


def recorded_endpoints(members: Mapping[str, Any]) -> list[Endpoint]:
    """Return the endpoints of the database: what there is while podlane-endpoint is down."""
    addresses: dict[int, list[Any]] = {}
    for row in table_of(members, "endpoint", "addresses"):
        addresses.setdefault(row["endpoint_id"], []).append(row)
    return [
        Endpoint(
            id=row["id"],
            generation=row["generation"],
            owner=row_owner(row),
            pod=f"{row['pod_namespace']}/{row['pod_name']}" if row["pod_name"] else "",
            state=READY if row["stage"] == "created" else row["stage"],
            identity=row["identity"],
            addresses=tuple(one["address"] for one in addresses.get(row["id"], ())),
            gateways=tuple(one["gateway"] for one in addresses.get(row["id"], ()) if one["gateway"]),
            link=Link(
                owner=row_owner(row),
                chained=bool(row.get("chained", 0)),
                **{name: row[name] for name in _LINK_COLUMNS},
            ),
        )
        for row in table_of(members, "endpoint", "endpoints")
    ]


_LINK_COLUMNS = ("host_ifname", "host_ifindex", "host_mac", "pod_mac", "netns_path", "netns_inode", "mtu")


def recorded_links(state: Any) -> dict[Owner, Link] | None:
    """Return the links that the state directory has records of, None when it wasn't read."""
    if state is None:
        return None
    found = {}
    for name, record in state.items():
        if name.startswith("links/") and isinstance(record, dict) and "attachment" in record:
            network, container, ifname = record["attachment"]
            owner = (network, container, ifname)
            found[owner] = Link(
                owner=owner,
                host_ifname=record.get("host_ifname") or name.removeprefix("links/").removesuffix(".json"),
                chained=bool(record.get("chained", False)),
                **{column: record[column] for column in _LINK_COLUMNS[1:]},
            )
    return found


def recorded_allocations(members: Mapping[str, Any]) -> dict[Owner, Allocation] | None:
    """Return what ipam's database says, None when it wasn't read."""
    if members.get("files/ipam.json") is None:
        return None
    return {
        row_owner(row): Allocation(
            owner=row_owner(row),
            pod=f"{row['pod_namespace']}/{row['pod_name']}" if row["pod_name"] else "",
            pool=row["pool"],
            addresses=tuple(row[family] for family in ("ipv4", "ipv6") if row[family]),
            confirmed=row["confirmed"] is not None,
            endpoint_id=row["endpoint_id"] or 0,
            expires=row["expires"],
        )
        for row in table_of(members, "ipam", "allocations")
    }
