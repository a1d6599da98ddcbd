"""podlane-ipam: the IPAM plugin (SPEC.md, section 4) by which other plugins have podlane's addresses.

A plugin like bridge, ptp or macvlan calls it for its `ipam.type`, with its own environment and its own stdin. It asks
podlane-ipam, the service, and nobody else: what it holds there is *ipam only*, confirmed without an endpoint.

    ADD     ipamadd.py                CHECK   ipamcheck.py        STATUS  status.py, with the one service
    DEL     releases what no endpoint has, or journals that (delete.py); nothing held is success
    GC      does so for each attachment of the network that isn't valid and whose addresses are ipam only

What an endpoint of podlane's own plugin has is never released, and a reservation that was never confirmed is left to
expire by GC, because an ADD may be about to confirm it.
"""

from cni.ipamconfig import AddressConfig, IpamConfig, pool_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.session import Session

__all__ = ["VERBS", "IpamConfig"]


def _add(session: "Session") -> None:
    from cni.ipamadd import Addition
    from cni.shim import perform

    if session.is_journalled() or session.is_journalled(session.entry_of(session.attachment)):
        from cni import journal

        journal.wait_until_gone(session)
        journal.before_add(session, addresses=True)
    config = session.config
    addition = Addition(session, AddressConfig(config.document, session.environment, config.version))
    perform(addition.run, addition.undo)


def _delete(session: "Session") -> None:
    from cni import delete

    delete.delete(session)


def _check(session: "Session") -> None:
    from cni.ipamcheck import check

    check(session)


def _status(session: "Session") -> None:
    from cni.status import status

    status(session, pool_name(session.config.document), delegated=True)


def _collect(session: "Session") -> None:
    from cni import gc, ipammessages, journal, teardown
    from cni.messages import CONFIRMED
    from cni.rpc import StepFailed
    from cni.spec import INCOMPLETE, CniError

    network = session.config.network
    valid = gc.valid_attachments(session.config.document)
    found: set[tuple[str, str]] = set()
    failed: list[CniError] = []
    try:
        for one in gc.pages(session, ipammessages.LIST_ALLOCATIONS, "allocations"):
            owner = one["owner"] or {"network": ""}
            if owner["network"] == network and one["state"] == CONFIRMED and not one["endpoint_id"]:
                found.add((owner["container_id"], owner["ifname"]))
    except StepFailed as error:
        failed.append(error)
    for container_id, ifname in sorted(found - valid):
        attachment = {"network": network, "container_id": container_id, "ifname": ifname}
        failed += journal.carry_out(session, session, attachment)
    if failed:
        message = f"network {network}: {len(failed)} steps of the garbage collection failed, first: {failed[0].message}"
        raise CniError(INCOMPLETE, message, teardown.told(failed))


VERBS = {"ADD": _add, "DEL": _delete, "CHECK": _check, "STATUS": _status, "GC": _collect}
