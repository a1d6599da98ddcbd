"""What those work with who create, keep and remove endpoints (`creating.py`, `manager.py`, `removal.py`)."""

from dataclasses import dataclass

from services.common import controllers
from services.endpoint.admission import Admission
from services.endpoint.chronicle import Chronicle
from services.endpoint.node import Readiness
from services.endpoint.peers import Ipam, Loader
from services.endpoint.policies import Policies
from services.endpoint.publisher import Publisher
from services.endpoint.registry import Registry
from services.endpoint.store import Store
from services.endpoint.watch import Watchers


@dataclass(frozen=True, slots=True)
class Parts:
    """The other parts of the service, as `main.py` has made them."""

    store: Store
    loader: Loader
    ipam: Ipam
    controllers: controllers.Registry
    publisher: Publisher
    watchers: Watchers
    readiness: Readiness
    registry: Registry
    policies: Policies
    admission: Admission
    chronicle: Chronicle
