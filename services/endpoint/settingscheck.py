"""The endpoint service's settings, checked: every mistake is named by its table and key. Pure."""

from dataclasses import replace
from ipaddress import ip_network

from services.common.config import EndpointSettings, Settings
from services.common.errors import InvalidArgument
from services.common.model import Network
from services.endpoint.observed import NodeConfig, Routing
from services.endpoint.policy.settings import InitPolicy
from services.endpoint.policy.settings import Settings as PolicySettings

# A year: beyond it a typo is likelier than a wish.
_LONGEST = 366 * 86400


def node_config(settings: Settings) -> NodeConfig:
    """Return what the settings say of the node. Raises InvalidArgument."""
    cluster = settings.cluster
    config = NodeConfig((), (), settings.loader.masquerade, settings.loader.mtu)
    if not settings.kvstore.endpoints:
        return config
    if cluster.underlay_family not in {0, 4, 6}:
        raise InvalidArgument(f"[cluster] underlay_family: {cluster.underlay_family} is none of 0, 4 and 6")
    if not 0 < cluster.tunnel_port <= 65535:
        raise InvalidArgument(f"[cluster] tunnel_port: {cluster.tunnel_port} is not between 1 and 65535")
    return replace(
        config,
        routing=routing(cluster.routing),
        underlay_device=cluster.underlay_device,
        underlay_family=cluster.underlay_family,
        tunnel_port=cluster.tunnel_port,
        cluster_cidrs=tuple(_cidr(text, f"[cluster] cidrs[{index}]") for index, text in enumerate(cluster.cidrs)),
    )


def _cidr(text: str, field: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise InvalidArgument(f"{field}: {error}", field=field) from None


def check(endpoint: EndpointSettings) -> None:
    if endpoint.queue_size < 1:
        raise InvalidArgument(f"[endpoint] queue_size: {endpoint.queue_size} is less than 1", key="queue_size")
    if not 0 <= endpoint.history_size <= 1_000_000:
        size = endpoint.history_size
        raise InvalidArgument(f"[endpoint] history_size: {size} is not between 0 and 1000000", key="history_size")
    for key in ("build_permits", "create_permits"):
        if getattr(endpoint, key) < 0:
            raise InvalidArgument(f"[endpoint] {key}: {getattr(endpoint, key)} is negative", key=key)
    for key, longest in (
        ("peer_wait_seconds", 3600),
        ("gc_interval_seconds", _LONGEST),
        ("gc_grace_seconds", _LONGEST),
        ("identity_grace_seconds", _LONGEST),
    ):
        seconds = getattr(endpoint, key)
        # Written so that TOML's nan fails too.
        if not 0 <= seconds <= longest:
            raise InvalidArgument(f"[endpoint] {key}: {seconds} is not between 0 and {longest}", key=key)
    if not 0 < endpoint.journal_max_days <= 366:
        days = endpoint.journal_max_days
        raise InvalidArgument(f"[endpoint] journal_max_days: {days} is not in (0, 366]", key="journal_max_days")
    for key in ("regenerate_interval_seconds", "publish_interval_seconds", "identity_gc_interval_seconds"):
        seconds = getattr(endpoint, key)
        if not 0 < seconds <= _LONGEST:
            raise InvalidArgument(f"[endpoint] {key}: {seconds} is not in (0, {_LONGEST}]", key=key)


def policy_settings(endpoint: EndpointSettings) -> PolicySettings:
    if endpoint.init_policy not in set(InitPolicy):
        words = ", ".join(InitPolicy)
        raise InvalidArgument(f"[endpoint] init_policy: {endpoint.init_policy!r} is none of {words}", key="init_policy")
    return PolicySettings(
        allow_from_host=endpoint.allow_from_host,
        allow_to_host=endpoint.allow_to_host,
        init_policy=InitPolicy(endpoint.init_policy),
    )


def routing(word: str) -> Routing:
    """Read the setting. Raises InvalidArgument."""
    found = {"overlay": Routing.OVERLAY, "native": Routing.NATIVE}.get(word)
    if found is None:
        raise InvalidArgument(f"[cluster] routing: {word!r} is neither overlay nor native", key="routing")
    return found
