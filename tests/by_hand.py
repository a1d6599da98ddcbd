"""The three steps of an ADD, and what else the services do, called one by one: `grpcurl` for tests.

by_hand = ByHand(Agreement(node))
reserved = by_hand.reserve(pod)
link = by_hand.link(pod, reserved)
by_hand.create(pod, reserved, link)
"""

from podlane.common.v1 import types_pb2 as types
from podlane.endpoint.v1 import endpoint_pb2, policy_pb2
from podlane.ipam.v1 import ipam_pb2
from podlane.loader.v1 import loader_pb2

from tests.agreement import Agreement
from tests.node_support import Pod

NETWORK = "podlane"
ALLOW_ALL = [loader_pb2.PolicyEntry(direction=loader_pb2.TrafficDirection.ValueType(one)) for one in (1, 2)]


def attachment(pod: Pod) -> types.Attachment:
    """Return what the shim would call this pod's interface."""
    return types.Attachment(network=pod.network, container_id=pod.container_id, ifname=pod.ifname)


class ByHand:
    """Calls, with the answers that the next call needs."""

    def __init__(self, agreement: Agreement) -> None:
        """Call the services of this node."""
        self._call = agreement.call

    def reserve(self, pod: Pod) -> ipam_pb2.AllocateAddressesResponse:
        """Step one."""
        request = ipam_pb2.AllocateAddressesRequest(
            owner=attachment(pod), pod=types.Pod(namespace=pod.namespace, name=pod.name, uid="u1")
        )
        reply: ipam_pb2.AllocateAddressesResponse = self._call("ipam", "AllocateAddresses", request)
        return reply

    def link(self, pod: Pod, reserved: ipam_pb2.AllocateAddressesResponse) -> loader_pb2.Link:
        """Step two."""
        request = loader_pb2.CreateLinkRequest(
            attachment=attachment(pod),
            netns_path=pod.path,
            addresses=reserved.allocation.addresses,
            routes=reserved.routes,
        )
        made: loader_pb2.Link = self._call("loader", "CreateLink", request).link
        return made

    def create(
        self, pod: Pod, reserved: ipam_pb2.AllocateAddressesResponse, link: loader_pb2.Link, app: str = "web"
    ) -> endpoint_pb2.Endpoint:
        """Step three; `app` is one of the pod's labels."""
        request = endpoint_pb2.CreateEndpointRequest(
            attachment=attachment(pod),
            pod=reserved.allocation.pod,
            link=link,
            addresses=reserved.allocation.addresses,
            labels={"app": app, "k8s:tier": "front"},
        )
        created: endpoint_pb2.Endpoint = self._call("endpoint", "CreateEndpoint", request).endpoint
        return created

    def apply(self, text: str) -> policy_pb2.ApplyPoliciesResponse:
        """ApplyPolicies."""
        request = policy_pb2.ApplyPoliciesRequest(text=text)
        reply: policy_pb2.ApplyPoliciesResponse = self._call("policy", "ApplyPolicies", request)
        return reply

    def forget(self, name: str) -> policy_pb2.DeletePoliciesResponse:
        """DeletePolicies, of a NetworkPolicy in `default`."""
        named = policy_pb2.DocumentName(kind=policy_pb2.DOCUMENT_KIND_NETWORK_POLICY, name=name)
        request = policy_pb2.DeletePoliciesRequest(names=[named])
        reply: policy_pb2.DeletePoliciesResponse = self._call("policy", "DeletePolicies", request)
        return reply

    def label(self, pod: Pod, **labels: str | None) -> endpoint_pb2.Endpoint:
        """UpdateLabels; None: the pod's own word counts again."""
        changes = [policy_pb2.LabelChange(key=key, value=value) for key, value in labels.items()]
        request = policy_pb2.UpdateLabelsRequest(
            selector=endpoint_pb2.EndpointSelector(attachment=attachment(pod)), changes=changes
        )
        reply: endpoint_pb2.Endpoint = self._call("policy", "UpdateLabels", request).endpoint
        return reply

    def check(self, pod: Pod) -> list[str]:
        """CheckEndpoint's problems."""
        request = endpoint_pb2.CheckEndpointRequest(selector=endpoint_pb2.EndpointSelector(attachment=attachment(pod)))
        return list(self._call("endpoint", "CheckEndpoint", request).problems)

    def get(self, pod: Pod) -> endpoint_pb2.Endpoint:
        """Return a pod's endpoint with its log."""
        request = endpoint_pb2.GetEndpointRequest(selector=endpoint_pb2.EndpointSelector(attachment=attachment(pod)))
        found: endpoint_pb2.Endpoint = self._call("endpoint", "GetEndpoint", request).endpoint
        return found

    def delete(self, pod: Pod) -> bool:
        """Delete a pod's endpoint, and nothing else of it."""
        selector = endpoint_pb2.EndpointSelector(attachment=attachment(pod))
        request = endpoint_pb2.DeleteEndpointRequest(selector=selector)
        return bool(self._call("endpoint", "DeleteEndpoint", request).deleted)

    def configure(self, pod: Pod, **options: bool | None) -> list[endpoint_pb2.RegenerationResult]:
        """Set switches of a pod's endpoint (with `_` for `-`; None takes one back)."""
        request = endpoint_pb2.SetOptionsRequest(
            selector=endpoint_pb2.EndpointSelector(attachment=attachment(pod)),
            changes=[
                endpoint_pb2.OptionChange(name=name.replace("_", "-"), enabled=enabled)
                for name, enabled in options.items()
            ],
        )
        return list(self._call("endpoint", "SetOptions", request).results)

    def configure_node(self, **options: bool | None) -> list[endpoint_pb2.RegenerationResult]:
        """Set switches of the node."""
        request = endpoint_pb2.SetOptionsRequest(
            changes=[
                endpoint_pb2.OptionChange(name=name.replace("_", "-"), enabled=enabled)
                for name, enabled in options.items()
            ],
        )
        return list(self._call("endpoint", "SetOptions", request).results)

    def renew(self, pod: Pod, level: int) -> list[endpoint_pb2.RegenerationResult]:
        """Regenerate a pod's endpoint."""
        request = endpoint_pb2.RegenerateEndpointsRequest(
            selector=endpoint_pb2.EndpointSelector(attachment=attachment(pod)),
            level=loader_pb2.RegenerationLevel.ValueType(level),
        )
        return list(self._call("endpoint", "RegenerateEndpoints", request).results)

    def regenerate(
        self, pod: Pod, policy: list[loader_pb2.PolicyEntry] | None = None, **options: bool
    ) -> loader_pb2.RegenerateEndpointResponse:
        """Have the loader put a pod's datapath in force with these options (with `_` for `-`), at level 1."""
        endpoint = self.get(pod)
        request = loader_pb2.RegenerateEndpointRequest(
            endpoint=loader_pb2.EndpointConfig(
                id=endpoint.id,
                generation=endpoint.generation,
                attachment=endpoint.attachment,
                host_ifname=endpoint.link.host_ifname,
                host_ifindex=endpoint.link.host_ifindex,
                host_mac=endpoint.link.host_mac,
                pod_mac=endpoint.link.pod_mac,
                addresses=[types.IpAddress(packed=one.address.address.packed) for one in endpoint.addresses],
                identity=endpoint.identity,
                options=[
                    loader_pb2.EndpointOption(name=name.replace("_", "-"), enabled=enabled)
                    for name, enabled in options.items()
                ],
            ),
            level=loader_pb2.REGENERATION_LEVEL_NO_REBUILD,
            policy=ALLOW_ALL if policy is None else policy,
        )
        reply: loader_pb2.RegenerateEndpointResponse = self._call("loader", "RegenerateEndpoint", request)
        return reply
