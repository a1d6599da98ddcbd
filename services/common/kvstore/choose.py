"""Which kvstore a service uses: etcd where endpoints are set, the embedded one else.

etcd's modules are imported only when etcd is chosen: they are memory that a node by itself need not have.
"""

from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from services.common.config import ClusterSettings, KvstoreSettings
from services.common.controllers import Registry
from services.common.errors import InvalidArgument
from services.common.kvstore import Kvstore
from services.common.kvstore.metrics import KvstoreMetrics
from services.common.lifecycle import Component, Hook
from services.common.metrics import Metrics

_UNSET = Path()


def choose(
    settings: KvstoreSettings,
    cluster: ClusterSettings,
    registry: Registry,
    embedded: Kvstore | None = None,
    metrics: Metrics | None = None,
) -> tuple[Kvstore, Component]:
    """Return the store, and what is to be started and stopped with the service: before who uses it, after `registry`.

    Nothing is asked of etcd here. Raises InvalidArgument for settings that can't work, and when there is neither etcd
    nor `embedded`.
    """
    check(settings)
    if not settings.endpoints:
        if embedded is None:
            raise InvalidArgument("[kvstore] endpoints: must name etcd's members, as nothing else serves here")
        return embedded, Hook(_nothing)
    from services.common.kvstore.etcd import EtcdKvstore

    meter = KvstoreMetrics(metrics.registry) if metrics is not None else None
    store = EtcdKvstore(settings, cluster.name, registry, meter.request if meter is not None else lambda *_: None)
    if meter is not None:
        meter.watch(store.figures)
    return store, store


def check(settings: KvstoreSettings) -> None:
    """Raise InvalidArgument for the first setting that can't work; whether etcd answers is another question."""
    urls = [_url(endpoint) for endpoint in settings.endpoints]
    if len({url.scheme for url in urls}) > 1:
        raise InvalidArgument("[kvstore] endpoints: all must be https, or all http", key="endpoints")
    tls = any(url.scheme == "https" for url in urls)
    if tls and settings.ca == _UNSET:
        raise InvalidArgument("[kvstore] ca: must be set, as endpoints have https", key="ca")
    if (settings.certificate == _UNSET) != (settings.key == _UNSET):
        raise InvalidArgument("[kvstore] certificate and key: both, or none of them", key="certificate")
    if bool(settings.username) != (settings.password_file != _UNSET):
        raise InvalidArgument("[kvstore] username and password_file: both, or none of them", key="username")
    if not settings.root or settings.root.startswith("/") or settings.root.endswith("/"):
        raise InvalidArgument(f"[kvstore] root: {settings.root!r} must be a name without / at its ends", key="root")
    if not 25 <= settings.lease_seconds <= 86400:
        raise InvalidArgument(
            f"[kvstore] lease_seconds: {settings.lease_seconds} must be 25-86400", key="lease_seconds"
        )
    if not 0 < settings.timeout_seconds <= 60:
        message = f"[kvstore] timeout_seconds: {settings.timeout_seconds:g} must be more than 0, up to 60"
        raise InvalidArgument(message, key="timeout_seconds")
    if settings.requests_per_second < 0 or settings.requests_in_flight < 1:
        message = "[kvstore] requests_per_second must not be negative, requests_in_flight must be at least 1"
        raise InvalidArgument(message, key="requests_per_second")


def _url(endpoint: str) -> SplitResult:
    try:
        url = urlsplit(endpoint)
        if url.scheme in {"http", "https"} and url.hostname and url.port and url.path in {"", "/"} and not url.query:
            return url
    except ValueError:
        pass  # what it says helps nobody; the example does
    raise InvalidArgument(f"[kvstore] endpoints: {endpoint!r} must be like https://10.0.0.1:2379", key="endpoints")


async def _nothing() -> None:
    pass
