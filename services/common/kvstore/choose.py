"""Which store a service has: etcd where endpoints of one are configured, otherwise what the caller has."""

from services.common.config import ClusterSettings, KvstoreSettings
from services.common.kvstore import Kvstore
from services.common.lifecycle import Component


def choose(settings: KvstoreSettings, cluster: ClusterSettings, embedded: Kvstore) -> tuple[Kvstore, Component]:
    """Return the store and what starts and stops it. Raises InvalidArgument for settings that can't work."""
    raise NotImplementedError
