"""What the loader spends on a change of policy: many endpoints' maps, changed alike.

From the request's bytes until the maps hold it, in CPU time of the process: reading the message, comparing digests,
two batches for each map. The kernel's work is in it, the server's is not.
"""

import asyncio
import tempfile
import time
from pathlib import Path

from podlane.loader.v1 import loader_pb2 as pb

from benchmarks.harness import Report, Row, summary
from services.loader import model, policymessages
from services.loader.model import Direction, PolicyEntry
from tests.policymap_support import PolicyMaps

ENDPOINTS, BASE, SMALL, ROUNDS = 250, 20, 4, 40


def report(into: Report) -> None:
    """Measure, and add the row."""
    with tempfile.TemporaryDirectory(prefix="pl-bench-") as directory:
        spent = summary(asyncio.run(_changes(Path(directory))))
    note = f"{SMALL} entries for {SMALL} others, {ENDPOINTS} endpoints; CPU of the loader"
    into.add(Row("a change of policy, in the kernel", spent["median"], "ms", bound=20, note=note))
    into.raw["policymaps"] = spent


async def _changes(directory: Path) -> list[float]:
    base = _entries(0, BASE)
    before, spent = base, []
    async with PolicyMaps(directory) as maps:
        for id_ in range(1, ENDPOINTS + 1):
            await maps.fill(id_, *base)
        for number in range(ROUNDS):
            after = [*base, *_entries(BASE + number * SMALL, SMALL)]
            request = _request(before, after).SerializeToString()
            begin = time.process_time()
            update = policymessages.read_update(pb.UpdatePoliciesRequest.FromString(request))
            refused = await maps.policies.update(update)
            spent.append((time.process_time() - begin) * 1e3)
            assert not refused
            before = after
    return spent


def _entries(first: int, count: int) -> list[PolicyEntry]:
    return [PolicyEntry(Direction.INGRESS, 256 + number, 6, 80, 16) for number in range(first, first + count)]


def _request(before: list[PolicyEntry], after: list[PolicyEntry]) -> pb.UpdatePoliciesRequest:
    digests = (model.policy_content(before).digest, model.policy_content(after).digest)
    targets = [
        pb.PolicyTarget(id=id_, generation=1, before=digests[0], after=digests[1]) for id_ in range(1, ENDPOINTS + 1)
    ]
    added, removed = (map(policymessages.write_policy_entry, one) for one in (after[BASE:], before[BASE:]))
    return pb.UpdatePoliciesRequest(changes=[pb.PolicyChange(added=added, removed=removed, endpoints=targets)])
