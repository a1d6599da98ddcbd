"""Regeneration: an endpoint's datapath becomes what its configuration says.

    level 1, no-rebuild      no program is touched: policy map, node's end and routes, endpoint map entries
    level 2, rewrite+load    headers → template → load → steps.py → commit of the state directory

Level 1 is promoted when the programs don't fit the configuration, whatever the reason (model.reload_reason): who wants
«as needed» asks for level 1. Level 2 loads in any case. The response says what was done, why, and what it changed;
`preview` says it without doing it.

Invariants
- One endpoint is regenerated or removed at a time, in the order of the requests; endpoints don't wait for each other.
- What is about to be put in force is written to `<id>_next` before the kernel is told (statedir.py).
- A failure leaves what was live live: programs, maps, directory; only a policy that was filled stays (steps.py). A
  refused compile or load also leaves its log in `<id>_next_fail`.
- A newer generation of an id takes the older one down first; an older one is refused.

Not here: what the levels do (levels.py), when and why to regenerate (the endpoint service), what is in a policy, links.
"""

import time
from collections.abc import Callable, Sequence

from services.common import telemetry
from services.common.errors import FailedPrecondition, NotFound
from services.common.locks import KeyedLocks
from services.common.stopwatch import Stopwatch
from services.loader import headers, model
from services.loader.attach import link_exists
from services.loader.compile import CompileError
from services.loader.datapath import explained
from services.loader.image import Images
from services.loader.inventory import Status
from services.loader.levels import Job, Levels, Outcome, constants_of, level_of
from services.loader.model import EndpointRecord, EndpointSpec, Level, NodeConfig, PolicyEntry
from services.loader.objects import VerifierError
from services.loader.spares import Spares
from services.loader.statedir import StateDir
from services.loader.steps import Kernel, take_down
from services.loader.template import Templates

_log = telemetry.logger("regenerate")
Observe = Callable[[Level, bool, float], None]
"""Told of each regeneration that ends: its level, whether it succeeded, and the seconds that it took."""


def _unobserved(_level: Level, _succeeded: bool, _seconds: float) -> None:
    """Nobody counts."""


class Regenerator:
    """Regenerates and removes endpoints. `node` returns the node's configuration, or raises FailedPrecondition."""

    def __init__(
        self,
        state: StateDir,
        templates: Templates,
        kernel: Kernel,
        locks: KeyedLocks,
        node: Callable[[], NodeConfig],
        *,
        images: Images,
        spares: Spares,
        observe: Observe = _unobserved,
    ) -> None:
        """Wire; nothing is touched. `locks` are by endpoint id."""
        self._observe = observe
        self._state = state
        self._templates = templates
        self._kernel = kernel
        self._spares = spares
        self._levels = Levels(state, templates, kernel, images, spares)
        self._node = node
        self._locks = locks

    async def regenerate(self, spec: EndpointSpec, level: Level, policy: Sequence[PolicyEntry] | None) -> Outcome:
        """Put the endpoint's datapath in force, at `level` or, where that isn't enough, at level 2.

        `policy` None: the policy map stays as it is.

        Raises FailedPrecondition (compile, verifier, node not configured, older generation), NotFound (link gone),
        Exhausted (a map is full) or Unavailable (the kernel refuses).
        """
        async with self._locks.hold(spec.id):
            begin = time.perf_counter()
            try:
                with self._spares.wait():
                    outcome = await self._regenerate(spec, level, policy)
            except BaseException:
                self._observe(level, False, time.perf_counter() - begin)
                raise
            self._observe(outcome.level, True, time.perf_counter() - begin)
            return outcome

    async def _regenerate(self, spec: EndpointSpec, level: Level, policy: Sequence[PolicyEntry] | None) -> Outcome:
        node = self._node()
        _check_link(spec)
        job = Job(
            spec,
            level,
            self._entries(spec, policy),
            await self._live(spec),
            self._state.build(spec.id),
            Stopwatch(),
        )
        outcome = await self._guarded(job, node)
        _log.debug(
            "regenerated",
            endpoint=spec.id,
            asked=int(level),
            level=int(outcome.level),
            reason=outcome.reason,
            us={phase.name: phase.duration_us for phase in outcome.phases},
        )
        return outcome

    async def preview(self, spec: EndpointSpec, level: Level, policy: Sequence[PolicyEntry] | None) -> Outcome:
        """Say what `regenerate` would do now. Nothing is compiled, loaded or written. Raises as it does."""
        async with self._locks.hold(spec.id):
            node = self._node()
            _check_link(spec)
            live = self._state.record(spec.id)
            if live is not None and live.spec.generation > spec.generation:
                raise _newer(live, spec.generation)
            if live is not None and live.spec.generation < spec.generation:
                live = None  # it would be taken down first
            with explained(f"endpoint {spec.id}"):
                return await self._would(spec, level, self._entries(spec, policy), live, node)

    def _entries(self, spec: EndpointSpec, policy: Sequence[PolicyEntry] | None) -> Sequence[PolicyEntry]:
        """Return what the policy map is to hold."""
        if policy is not None:
            return policy
        if not self._kernel.datapath.has_policy(spec.id):
            raise FailedPrecondition(f"endpoint {spec.id} has no policy map that could stay as it is", endpoint=spec.id)
        return self._kernel.datapath.policy_entries(spec.id)

    async def _would(
        self,
        spec: EndpointSpec,
        level: Level,
        policy: Sequence[PolicyEntry],
        live: EndpointRecord | None,
        node: NodeConfig,
    ) -> Outcome:
        datapath, header = self._kernel.datapath, headers.ep_config(spec.options)
        template, made = self._templates.identify(headers.of_node(node), header)
        wanted = model.config_hash(template, self._kernel.attachers.mode_of(spec), constants_of(spec, node))
        observed = await datapath.observe(live) if live is not None else None
        lost = model.program_problems(live, observed.running) if live is not None and observed is not None else []
        reason = model.reload_reason(spec, level, wanted, live, lost)
        entries = datapath.policy_entries(spec.id)
        changes = headers.changed(self._state.header(spec.id), header)
        if reason is not None and not made:
            changes.append(f"shape {template[:12]} is new: clang compiles it")
        if live is not None and observed is not None:
            changes += model.policy_changes(spec.id, entries, policy)
            changes += model.map_changes(spec, live, observed)
            changes += observed.node_side
        status = Status(spec.id, live, live is not None, model.policy_content(entries), ())
        return Outcome(status, level_of(reason), reason, (), tuple(changes))

    async def remove(self, id_: int, generation: int, *, unrecorded: bool = False) -> bool:
        """Take an endpoint down; return whether anything was there. `generation` 0: whatever holds the id.

        Raises FailedPrecondition when a newer generation holds the id, and with `unrecorded` when any does.
        """
        async with self._locks.hold(id_):
            live = self._state.record(id_)
            if live is not None and (unrecorded or (generation and live.spec.generation > generation)):
                raise _newer(live, generation)
            with self._spares.wait():
                return await take_down(self._kernel, self._state, id_, live)

    async def _live(self, spec: EndpointSpec) -> EndpointRecord | None:
        """Return what is in force for this endpoint; an earlier holder of its id is taken down."""
        live = self._state.record(spec.id)
        if live is None or live.spec.generation == spec.generation:
            return live
        if live.spec.generation > spec.generation:
            raise _newer(live, spec.generation)
        _log.info("taking an earlier generation down", endpoint=spec.id, generation=live.spec.generation)
        await take_down(self._kernel, self._state, spec.id, live)
        return None

    async def _guarded(self, job: Job, node: NodeConfig) -> Outcome:
        """Run the job; whatever fails, no `<id>_next` stays, and a refusal leaves its log."""
        header = headers.ep_config(job.spec.options)
        try:
            with explained(f"endpoint {job.spec.id}"):
                return await self._levels.run(job, node, header)
        except (CompileError, VerifierError) as refusal:
            log = job.build.fail(header, refusal.log)
            raise FailedPrecondition(
                f"endpoint {job.spec.id}: {refusal.message}; what ran before still runs; the whole log is in {log}",
                endpoint=job.spec.id,
                log=log,
            ) from refusal
        except BaseException:
            job.build.discard()
            raise


def _check_link(spec: EndpointSpec) -> None:
    if not link_exists(spec):
        raise NotFound(
            f"endpoint {spec.id}: there is no link {spec.host_ifname} with index {spec.host_ifindex}",
            ifname=spec.host_ifname,
            ifindex=spec.host_ifindex,
        )


def _newer(live: EndpointRecord, generation: int) -> FailedPrecondition:
    return FailedPrecondition(
        f"endpoint id {live.spec.id} belongs to generation {live.spec.generation} ({live.spec.attachment}) now; the "
        f"request is for {f'generation {generation}, which is gone' if generation else 'what nobody has a record of'}",
        endpoint=live.spec.id,
        generation=live.spec.generation,
    )
