"""The node's own addresses in `podlane_endpoints`: to policy they are the host, on whichever device they are.

Without an entry an address of the node would be the world's to the pods that talk to it. Packets to it go up the node's
stack either way.

    the node's     all addresses in the loader's network namespace, and the gateways, which it is about to have
    not            loopback and link-local ones, which no pod's packet leaves for; those in the pods' ranges: they are
                   given to endpoints, whose entries are never touched

They are compared with the map when the node is configured, when the kernel says that an address came or went
(addresswatch.py), and every INTERVAL seconds, by the controller `node-addresses`.
"""

from collections.abc import Iterable

from services.common import telemetry
from services.common.model import Address
from services.loader import rtnl_ip
from services.loader.datapath import Datapath
from services.loader.model import NodeConfig
from services.loader.netlink import Rtnl
from services.loader.netlink_messages import explain
from services.loader.netlink_worker import NetlinkWorker

INTERVAL = 60.0

_log = telemetry.logger("hostaddresses")


class HostAddresses:
    """Compares and mends."""

    def __init__(self, worker: NetlinkWorker, datapath: Datapath) -> None:
        """Wire."""
        self._worker = worker
        self._datapath = datapath

    async def sync(self, config: NodeConfig) -> None:
        """Write entries that are missing, then remove those of addresses that are gone.

        Raises Exhausted when the map is full, Unavailable when the kernel doesn't say what it has.
        """
        try:
            found = await self._worker.run(_addresses)
        except OSError as error:
            raise explain("the node's addresses", error) from error
        # From here on nothing waits, so no endpoint comes in between.
        endpoints = self._datapath.endpoints
        wanted = of_node(found, config)
        hosts = {entry.address: entry.host for entry in endpoints.dump()}
        missing = sorted(wanted - hosts.keys(), key=str)
        gone = sorted((address for address, host in hosts.items() if host and address not in wanted), key=str)
        for address in missing:
            endpoints.put_host(address)
        for address in gone:
            endpoints.delete(address)
        if missing or gone:
            _log.info("the node's addresses changed", added=list(map(str, missing)), removed=list(map(str, gone)))


def of_node(found: Iterable[Address], config: NodeConfig) -> set[Address]:
    """Return those of the addresses in the node's namespace that are the host to pods, and the gateways."""
    return {*config.gateways} | {
        address
        for address in found
        if not (address.is_loopback or address.is_link_local)
        and not any(address in network for network in config.pod_cidrs)
    }


def _addresses(own: Rtnl) -> list[Address]:
    return [address.ip for _, address in map(rtnl_ip.read_address, own.dump(rtnl_ip.dump_addresses()))]
