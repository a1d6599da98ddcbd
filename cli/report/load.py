"""Members → model, from whoever has told: the services, else their files (recorded.py).

Pure, but for the archive's bytes. An archive of a later minor format has members and keys that aren't known here: they
are passed over. One of another major format is refused, as is what can't be read.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from cli.report import archive
from cli.report.model import READY, Allocation, Datapath, Device, Endpoint, Inside, Link, Owner, Report
from cli.report.recorded import recorded_allocations, recorded_endpoints, recorded_links, row_owner, table_of
from services.common.errors import InvalidArgument

_MAJOR = 1
_DIRECTIONS = ("ingress", "egress")


def report(packed: bytes, name: str) -> Report:
    """Return the report of an archive; `name` is for errors. Raises InvalidArgument."""
    return of(decode(archive.unpack(packed, name), name), name)


def decode(members: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Return the members as values: JSON by its suffix, else text. Raises InvalidArgument."""
    found: dict[str, Any] = {}
    for member, content in members.items():
        try:
            text = content.decode("utf-8", "replace")
            found[member] = json.loads(text) if member.endswith(".json") else text
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"{name}: {member} is damaged: it is no JSON ({error})") from None
    return found


def of(members: Mapping[str, Any], name: str) -> Report:
    """Return the report of decoded members. Raises InvalidArgument."""
    manifest: Any = members.get(archive.MANIFEST)
    try:
        major = int(str(manifest["format"]).partition(".")[0])
    except (KeyError, TypeError, ValueError):
        raise InvalidArgument(f"{name}: {archive.MANIFEST} is not of `podlane bugtool`: it has no format") from None
    if major != _MAJOR:
        raise InvalidArgument(
            f"{name}: has format {manifest['format']}, and this podlane reads {_MAJOR}.x: use the podlane that wrote it"
        )
    try:
        return _report(manifest, members)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InvalidArgument(
            f"{name}: what it holds is not as `podlane bugtool` writes it ({type(error).__name__}: {error})"
        ) from None


def _report(manifest: Any, members: Mapping[str, Any]) -> Report:
    told = members.get("endpoint/endpoints.json")
    endpoints = [_endpoint(one) for one in told] if told is not None else recorded_endpoints(members)
    after = members.get("endpoint/after.json")
    rows = table_of(members, "endpoint", "endpoints")
    everyone = [
        *((one.id, one.owner) for one in endpoints),
        *((one["id"], _owner(one["attachment"])) for one in after or ()),
        *((row["id"], row_owner(row)) for row in rows),
    ]
    return Report(
        node=str(manifest.get("node", "")),
        created=str(manifest.get("created", "")),
        created_seconds=float(manifest.get("created_seconds", 0.0)),
        failed={one["collector"]: one["why"] for one in manifest.get("failed", ())},
        members=members,
        endpoints=tuple(endpoints),
        settled=tuple(_settled(endpoints, after)),
        ids=frozenset(id_ for id_, _ in everyone),
        owners=frozenset(owner for _, owner in everyone),
        links=_links(members),
        datapaths=_datapaths(members),
        allocations=_allocations(members),
        devices=_devices(members.get("kernel/ip/addresses.json")),
        pods={
            name.removeprefix("pods/").removesuffix(".json"): _inside(content)
            for name, content in members.items()
            if name.startswith("pods/")
        },
    )


def _settled(endpoints: Iterable[Endpoint], after: Any) -> Iterable[Endpoint]:
    later = {one.id: one for one in map(_endpoint, after)} if after is not None else None
    for one in endpoints:
        same = later.get(one.id) if later is not None else one
        if one.state == READY and same is not None and _essence(one) == _essence(same):
            yield one


def _essence(one: Endpoint) -> tuple[Any, ...]:
    return one.generation, one.owner, one.state, one.identity, one.addresses, one.link, one.policies


def _owner(attachment: Mapping[str, str]) -> Owner:
    return attachment["network"], attachment["container_id"], attachment["ifname"]


def _pod(pod: Mapping[str, str] | None) -> str:
    return f"{pod['namespace']}/{pod['name']}" if pod and pod.get("name") else ""


def _bare(prefixes: Iterable[str]) -> tuple[str, ...]:
    return tuple(one.partition("/")[0] for one in prefixes)


def _endpoint(one: Mapping[str, Any]) -> Endpoint:
    return Endpoint(
        id=one["id"],
        generation=one["generation"],
        owner=_owner(one["attachment"]),
        pod=_pod(one.get("pod")),
        state=one["state"],
        identity=one["identity"],
        addresses=_bare(address["address"] for address in one["addresses"]),
        gateways=tuple(address["gateway"] for address in one["addresses"] if address.get("gateway")),
        link=_link(one["link"]),
        policies={name: tuple(one.get(f"{name}_policies", ())) for name in _DIRECTIONS},
        published=one.get("published"),
        told=one,
    )


def _link(one: Mapping[str, Any], **further: Any) -> Link:
    return Link(
        owner=_owner(one["attachment"]),
        host_ifname=one["host_ifname"],
        host_ifindex=one["host_ifindex"],
        host_mac=one.get("host_mac", ""),
        pod_mac=one.get("pod_mac", ""),
        netns_path=one["netns_path"],
        netns_inode=one["netns_inode"],
        mtu=one["mtu"],
        chained=one["chained"],
        **further,
    )


def _links(members: Mapping[str, Any]) -> dict[Owner, Link] | None:
    told = members.get("loader/links.json")
    if told is not None:
        return {
            _owner(one["link"]["attachment"]): _link(
                one["link"], problems=tuple(one["problems"]), idle_seconds=float(one["idle_seconds"])
            )
            for one in told
        }
    return recorded_links(members.get("files/state.json"))


def _datapaths(members: Mapping[str, Any]) -> dict[int, Datapath] | None:
    told = members.get("loader/datapaths.json")
    if told is not None:
        return {one["id"]: _datapath(one) for one in told}
    state = members.get("files/state.json")
    if state is None:
        return None
    records = [
        record
        for name, record in state.items()
        if name.partition("/")[0].isdecimal() and name.endswith("/endpoint.json") and "id" in record
    ]
    return {record["id"]: _datapath(record) for record in records}


def _datapath(one: Mapping[str, Any]) -> Datapath:
    attachment = one.get("attachment")
    if isinstance(attachment, list):
        network, container, ifname = attachment
        attachment = {"network": network, "container_id": container, "ifname": ifname}
    return Datapath(
        id=one["id"],
        generation=one["generation"],
        owner=_owner(attachment) if attachment and attachment["container_id"] else None,
        identity=one["identity"],
        host_ifname=one["host_ifname"],
        host_ifindex=one["host_ifindex"],
        programs={program["name"]: program["id"] for program in one["programs"]},
        problems=tuple(one.get("problems", ())),
        reachable=one.get("reachable"),
        digest=one.get("policy_digest"),
    )


def _allocations(members: Mapping[str, Any]) -> dict[Owner, Allocation] | None:
    told = members.get("ipam/allocations.json")
    if told is not None:
        return {
            _owner(one["owner"]): Allocation(
                owner=_owner(one["owner"]),
                pod=_pod(one.get("pod")),
                pool=one["pool"],
                addresses=_bare(address["address"] for address in one["addresses"]),
                confirmed=one["state"] == "confirmed",
                endpoint_id=one["endpoint_id"],
                expires=seconds(one["expires"]) if one.get("expires") else None,
            )
            for one in told
        }
    return recorded_allocations(members)


def _devices(told: Any) -> dict[str, Device] | None:
    if told is None:
        return None
    return {
        one["ifname"]: Device(
            ifname=one["ifname"],
            ifindex=one["ifindex"],
            mac=one.get("address", ""),
            mtu=one["mtu"],
            up="UP" in one["flags"],
            addresses=frozenset(address["local"] for address in one.get("addr_info", ()) if "local" in address),
        )
        for one in told
        if "ifname" in one
    }


def _inside(told: Mapping[str, Any]) -> Inside:
    return Inside(
        netns_inode=told.get("netns_inode", 0),
        devices=_devices(told.get("addresses")) or {},
        routes=(*told.get("routes4", ()), *told.get("routes6", ())),
        neighbours=tuple(told.get("neighbours", ())),
        error=told.get("error", ""),
    )


def seconds(text: str) -> float:
    """Return a time of `-o json` in seconds since the epoch."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp()
