"""The link records: one JSON file per link in `<state>/links/`, read into memory once, when the loader starts.

    <record's key>.json    a LinkRecord (linkspec.py) with the format's number

    1    a link of podlane's own
    2    a chained one; loaders that only know 1 would take it for their own and delete it

A record is written before the kernel is touched and again when all is done, each time beside and renamed over: a
reader or a kill finds the old one or the new one. Nothing is synced: the directory is on a tmpfs and lives as long as
the links do. A file that can't be read, or that a newer loader wrote, is CorruptState: it is kept and named.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from services.common.errors import CorruptState, Unavailable
from services.common.model import AssignedAddress, Attachment, Route, format_address, format_mac, format_prefix
from services.loader import files
from services.loader.linkspec import LinkRecord, LinkSpec, OffloadSizes

FORMAT, FORMAT_UNCHAINED = 2, 1
_SUFFIX = ".json"
_BESIDE = ".new"


def uptime() -> float:
    """Return the seconds since boot: the clock of `asked_at`."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def write(record: LinkRecord) -> str:
    """Return a record's text."""
    spec = record.spec
    values = {
        "format": FORMAT if spec.chained else FORMAT_UNCHAINED,
        "done": record.done,
        "attachment": [spec.attachment.network, spec.attachment.container_id, spec.attachment.ifname],
        "netns_path": spec.netns_path,
        "netns_inode": record.netns_inode,
        "netns_cookie": record.netns_cookie,
        "host_ifindex": record.host_ifindex,
        "pod_ifindex": record.pod_ifindex,
        "host_mac": format_mac(record.host_mac),
        "pod_mac": format_mac(record.pod_mac),
        "mtu": record.mtu,
        "asked_at": record.asked_at,
        **({"chained_ifname": record.chained_ifname} if spec.chained else {}),
        **({"secondary": list(record.secondary)} if record.secondary else {}),
        "asked": {
            "addresses": [
                [format_prefix(one.address), format_address(one.gateway), format_prefix(one.range)]
                for one in spec.addresses
            ],
            "routes": [
                [format_prefix(one.destination), format_address(one.gateway) if one.gateway else "", one.mtu]
                for one in spec.routes
            ],
            "mtu": spec.mtu,
            "route_mtu": spec.route_mtu,
            "offload": {name: getattr(spec.offload, name) for name in OffloadSizes.__slots__},
            "pod_mac": format_mac(spec.pod_mac) if spec.pod_mac else "",
        },
    }
    return json.dumps(values)


def read(content: str, path: Path) -> LinkRecord:
    """Return what a record's text says; `path` is for errors. Raises CorruptState."""
    try:
        values = json.loads(content)
        if values["format"] > FORMAT:
            raise CorruptState(
                f"{path} has format {values['format']} and this loader knows formats up to {FORMAT}: a newer podlane "
                "wrote it; run that one",
                path=path,
            )
        return _record(values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptState(
            f"{path} is damaged ({type(error).__name__}: {error}) and was left as it is: move it away; the pod's link "
            f"{path.stem} keeps working and can be deleted by its attachment",
            path=path,
        ) from None


def _record(values: Mapping[str, Any]) -> LinkRecord:
    asked = values["asked"]
    spec = LinkSpec(
        attachment=Attachment(*values["attachment"]),
        netns_path=values["netns_path"],
        addresses=tuple(
            AssignedAddress(ip_interface(address), ip_address(gateway), ip_network(range_))
            for address, gateway, range_ in asked["addresses"]
        ),
        routes=tuple(
            Route(ip_network(destination), ip_address(gateway) if gateway else None, int(mtu))
            for destination, gateway, mtu in asked["routes"]
        ),
        mtu=int(asked["mtu"]),
        route_mtu=int(asked["route_mtu"]),
        offload=OffloadSizes(**asked["offload"]),
        pod_mac=_mac(asked["pod_mac"]) if asked["pod_mac"] else None,
        chained="chained_ifname" in values,
    )
    return LinkRecord(
        spec=spec,
        mtu=int(values["mtu"]),
        host_mac=_mac(values["host_mac"]),
        pod_mac=_mac(values["pod_mac"]),
        netns_inode=int(values["netns_inode"]),
        netns_cookie=int(values["netns_cookie"]),
        done=bool(values["done"]),
        host_ifindex=int(values["host_ifindex"]),
        pod_ifindex=int(values["pod_ifindex"]),
        # Loaders before it was written made links that are older than this one.
        asked_at=float(values.get("asked_at", 0.0)),
        chained_ifname=str(values.get("chained_ifname", "")),
        secondary=tuple(map(int, values.get("secondary", ()))),
    )


def _mac(content: str) -> bytes:
    return bytes.fromhex(content.replace(":", ""))


class LinkRecords:
    """All records, in memory and on disk. Calls are a few system calls on a tmpfs.

    One link's record is written by one caller at a time (links.py holds its lock), on the loop or on the worker's
    thread; different links don't meet.
    """

    def __init__(self, directory: Path) -> None:
        """Remember where; `open` reads."""
        self._directory = directory
        self._records: dict[str, LinkRecord] = {}

    def open(self) -> None:
        """Make the directory and read what an earlier loader left. Raises CorruptState or Unavailable."""
        with _explained(self._directory):
            self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            for left in self._directory.glob("*" + _BESIDE):  # by a kill in the middle of a write
                left.unlink()
            paths = sorted(self._directory.glob("*" + _SUFFIX))
            contents = [(path, path.read_text()) for path in paths]
        records = (read(content, path) for path, content in contents)
        self._records = {record.key: record for record in records}

    def get(self, key: str) -> LinkRecord | None:
        """Return the record of a link by its key, None when there is none."""
        return self._records.get(key)

    def named(self, host_ifname: str) -> LinkRecord | None:
        """Return the record of a link by what its node's end is called, None when there is none."""
        found = self._records.get(host_ifname)
        return found or next((one for one in self._records.values() if one.chained_ifname == host_ifname), None)

    def all(self) -> list[LinkRecord]:
        """Return all records, by their keys."""
        return [record for _, record in sorted(self._records.items())]

    def put(self, record: LinkRecord) -> None:
        """Write a record. Raises Unavailable."""
        path = self._path(record.key)
        with _explained(path):
            files.replace(str(path), write(record))
        self._records[record.key] = record

    def remove(self, key: str) -> None:
        """Forget a link; none is fine. Raises Unavailable."""
        with _explained(self._path(key)):
            self._path(key).unlink(missing_ok=True)
        self._records.pop(key, None)

    def _path(self, key: str) -> Path:
        return self._directory / (key + _SUFFIX)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"{path}: {error.strerror}; loader.state_dir must be on a writable tmpfs or file system with room",
            path=path,
        ) from None
