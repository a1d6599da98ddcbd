"""What is made ready before the first endpoint asks: the usual shape's template, the flows' map, spare programs.

An ADD after a start, or after a change of the node's configuration, must not wait for clang if it need not, nor for
the verifier. The controller `prepare-template` runs this then; `prepare-spares` goes on with the spares (spares.py).

The usual shape is that of an endpoint without switches of its own, with an address of each of the node's families.
"""

from collections.abc import Mapping

from services.loader import headers, layout
from services.loader.blocking import Blocking
from services.loader.datapath import Datapath
from services.loader.libbpf import Fd
from services.loader.model import NodeConfig
from services.loader.nodeconfig import NodeConfigurer
from services.loader.spares import Shape, Spares
from services.loader.template import Template, Templates


class Preparation:
    """Gets things ready; again is fine."""

    def __init__(
        self, datapath: Datapath, templates: Templates, node: NodeConfigurer, spares: Spares, blocking: Blocking
    ) -> None:
        """Wire; nothing is made yet."""
        self._datapath, self._templates = datapath, templates
        self._node, self._spares, self._blocking = node, spares, blocking

    async def run(self) -> None:
        """Make what the usual endpoint needs. Raises CompileError, Unavailable, or BpfError."""
        await self._blocking.run(self._datapath.open_flows)  # tracking is on in it
        config = self._node.expected()
        template = await self._templates.get(headers.of_node(config), headers.ep_config({}))
        if config is not None:
            self._spares.prepare(usual(template, config, self._datapath.shared))


def usual(template: Template, config: NodeConfig, maps: Mapping[str, Fd]) -> Shape:
    """Return the usual shape on a node."""
    constants = layout.endpoint_constants(
        endpoint_id=0,
        identity=0,
        addresses=config.gateways,
        gateways=config.gateways,
        pod_mac=b"",
        host_mac=b"",
        host_ifindex=0,
    )
    return Shape(template.hash, template.code, constants, maps)
