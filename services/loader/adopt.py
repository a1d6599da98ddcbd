"""What a starting loader does about the one before it, which may have been killed at any point.

    <id>                 in force: nothing is touched, whatever the kernel has lost is reported when somebody asks
    <id>_next, whole     the kernel has all that it says (the kill came between the last step and the commit): committed
    <id>_next, not whole discarded; what a first build had put into the kernel by then is taken out again
    <id> without record  a removal was interrupted after the kernel's part: removed
    maps of nobody       policy maps and slots that neither a record nor an address leads to: removed

A rebuild that was interrupted half-way leaves an endpoint whose programs are not those of its record: it runs, its
status says so, and its next regeneration loads it anew.
"""

from services.common import telemetry
from services.loader import model
from services.loader.model import EndpointRecord
from services.loader.statedir import StateDir
from services.loader.steps import Kernel, take_down

_log = telemetry.logger("adopt")


async def adopt(state: StateDir, kernel: Kernel) -> int:
    """Bring state directory and kernel together; return the number of endpoints in force.

    Raises CorruptState when a record can't be read: it is kept for a person to look at.
    """
    live = {record.spec.id: record for record in state.records()}
    for id_, intended in state.unfinished():
        if intended is not None and await _is_whole(kernel, intended):
            state.build(id_).commit()
            live[id_] = intended
            _log.warning("committed a build that was interrupted after its last step", endpoint=id_)
            continue
        if id_ not in live and intended is not None:
            await take_down(kernel, state, id_, intended)
        state.build(id_).discard()
        _log.warning("discarded an interrupted build", endpoint=id_)
    for id_ in state.sweep():
        _log.warning("finished an interrupted removal", endpoint=id_)
    kernel.inventory.sweep(frozenset(live))
    return len(live)


async def _is_whole(kernel: Kernel, record: EndpointRecord) -> bool:
    return not model.problems(record, await kernel.datapath.observe(record))
