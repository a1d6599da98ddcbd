"""What the node's administrator decides about policy, and what is granted because of it. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from services.endpoint.policy.desired import EndpointPolicy, Grant, Origin, Side
from services.endpoint.policy.entry import Direction
from services.endpoint.policy.identity import Reserved
from services.endpoint.policy.ports import ALL_PORTS


class InitPolicy(StrEnum):
    """What an endpoint is granted whose labels aren't known yet (identity init)."""

    ALLOW = "allow"
    """Everything: in Kubernetes a pod is open until a policy selects it."""
    DENY = "deny"
    """Only the pod's own node."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that there is to decide."""

    allow_from_host: bool = True
    """The pod's own node always reaches it: probes of the kubelet (Cilium's `allow-localhost`, in Kubernetes)."""
    allow_to_host: bool = False
    """The pod always reaches its own node. Kubernetes' documentation says so; Cilium lets egress policy decide."""
    init_policy: InitPolicy = InitPolicy.ALLOW
    policy_map_size: int = 16384
    """Entries that the policy map of an endpoint holds."""
    prefix_map_size: int = 65536
    """Prefixes that the datapath's map of CIDR identities holds."""


DEFAULTS = Settings()

_HOST = frozenset({int(Reserved.HOST)})
_GRANTS = {
    Direction.INGRESS: Grant(Origin(None, "the pod's own node always reaches it (a setting)"), _HOST, ALL_PORTS),
    Direction.EGRESS: Grant(Origin(None, "the pod always reaches its own node (a setting)"), _HOST, ALL_PORTS),
}

ONLY_HOST = EndpointPolicy(*(Side((), (_GRANTS[way],)) for way in Direction))
"""What an endpoint of identity init is granted under `InitPolicy.DENY`."""


def granted_to_host(settings: Settings, way: Direction) -> tuple[Grant, ...]:
    """Return what every isolated endpoint is granted besides its policies' rules."""
    allowed = settings.allow_from_host if way is Direction.INGRESS else settings.allow_to_host
    return (_GRANTS[way],) if allowed else ()
