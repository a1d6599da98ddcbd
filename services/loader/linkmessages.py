"""Between the link messages and their values."""

from podlane.loader.v1 import loader_pb2 as pb

from services.common import wire
from services.common.errors import InvalidArgument
from services.loader.linkspec import CreatedLink, Link, LinkRemoval, LinkSpec, LinkStatus, OffloadSizes


def read_link(request: pb.CreateLinkRequest) -> LinkSpec:
    """Return the veth pair that is asked for."""
    if not request.netns_path:
        raise InvalidArgument("netns_path: the path of the pod's network namespace is needed", field="netns_path")
    offload = request.offload
    return LinkSpec(
        attachment=wire.read_attachment(request.attachment, "attachment"),
        netns_path=request.netns_path,
        addresses=wire.read_assigned_list(request.addresses, "addresses"),
        routes=tuple(wire.read_route(one, f"routes[{index}]") for index, one in enumerate(request.routes)),
        mtu=request.mtu,
        route_mtu=request.route_mtu,
        offload=OffloadSizes(
            offload.gso_max_size, offload.gro_max_size, offload.gso_ipv4_max_size, offload.gro_ipv4_max_size
        ),
        pod_mac=wire.read_mac(request.pod_mac, "pod_mac") if request.HasField("pod_mac") else None,
        chained=request.chained,
    )


def write_link(link: Link) -> pb.Link:
    """Return the message of a veth pair."""
    return pb.Link(
        attachment=wire.write_attachment(link.attachment),
        host_ifname=link.host_ifname,
        host_ifindex=link.host_ifindex,
        host_mac=wire.write_mac(link.host_mac),
        pod_mac=wire.write_mac(link.pod_mac),
        netns_path=link.netns_path,
        mtu=link.mtu,
        pod_ifindex=link.pod_ifindex,
        netns_inode=link.netns_inode,
        up=link.up,
        chained=link.chained,
    )


def write_created(made: CreatedLink) -> pb.CreateLinkResponse:
    """Return the answer to CreateLink."""
    return pb.CreateLinkResponse(
        link=write_link(made.link),
        created=made.created,
        phases=wire.write_phases(made.phases),
        routes=map(wire.write_route, made.routes),
    )


def write_link_status(status: LinkStatus) -> pb.LinkStatus:
    """Return a link with its problems."""
    return pb.LinkStatus(
        link=write_link(status.link),
        problems=status.problems,
        idle_seconds=int(status.idle),
        namespace=pb.NamespaceState.ValueType(status.namespace),
        processes=status.processes,
    )


def write_removal(removal: LinkRemoval) -> pb.WatchLinksResponse:
    """Return one event of the stream."""
    attachment = wire.write_attachment(removal.attachment) if removal.attachment is not None else None
    return pb.WatchLinksResponse(
        host_ifname=removal.host_ifname, host_ifindex=removal.host_ifindex, attachment=attachment
    )
