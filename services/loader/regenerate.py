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

Not here: when and why to regenerate (the endpoint service), what is in a policy, links.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from services.common import telemetry
from services.common.errors import FailedPrecondition, NotFound
from services.common.locks import KeyedLocks
from services.common.model import Phase
from services.common.stopwatch import Stopwatch
from services.loader import headers, layout, libbpf, maps, model, policymaps
from services.loader.attach import hook, link_exists
from services.loader.compile import CompileError
from services.loader.datapath import explained
from services.loader.image import Images
from services.loader.inventory import Status
from services.loader.model import EndpointRecord, EndpointSpec, Level, NodeConfig, PolicyContent, PolicyEntry, Program
from services.loader.objects import Programs, VerifierError
from services.loader.statedir import Build, StateDir
from services.loader.steps import Kernel, Steps, take_down, withdraw
from services.loader.template import Template, Templates

_log = telemetry.logger("regenerate")
Observe = Callable[[Level, bool, float], None]
"""Told of each regeneration that ends: its level, whether it succeeded, and the seconds that it took."""


def _unobserved(_level: Level, _succeeded: bool, _seconds: float) -> None:
    """Nobody counts."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a regeneration did or would do, why programs are loaded (None: they are not), and what else differs."""

    status: Status
    level: Level
    reason: str | None
    phases: tuple[Phase, ...]
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Job:
    """One regeneration under way."""

    spec: EndpointSpec
    level: Level
    policy: Sequence[PolicyEntry]
    live: EndpointRecord | None
    build: Build
    watch: Stopwatch
    changes: list[str] = dataclasses.field(default_factory=list)


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
        observe: Observe = _unobserved,
    ) -> None:
        """Wire; nothing is touched. `locks` are by endpoint id."""
        self._observe = observe
        self._state = state
        self._templates = templates
        self._kernel = kernel
        self._images = Images(kernel.blocking)
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
                outcome = await self._regenerate(spec, level, policy)
            except BaseException:
                self._observe(level, False, time.perf_counter() - begin)
                raise
            self._observe(outcome.level, True, time.perf_counter() - begin)
            return outcome

    async def _regenerate(self, spec: EndpointSpec, level: Level, policy: Sequence[PolicyEntry] | None) -> Outcome:
        node = self._node()
        _check_link(spec)
        job = _Job(
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
        wanted = model.config_hash(template, self._kernel.attachers.mode_of(spec), _constants(spec, node))
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
        return Outcome(status, _level(reason), reason, (), tuple(changes))

    async def remove(self, id_: int, generation: int, *, unrecorded: bool = False) -> bool:
        """Take an endpoint down; return whether anything was there. `generation` 0: whatever holds the id.

        Raises FailedPrecondition when a newer generation holds the id, and with `unrecorded` when any does.
        """
        async with self._locks.hold(id_):
            live = self._state.record(id_)
            if live is not None and (unrecorded or (generation and live.spec.generation > generation)):
                raise _newer(live, generation)
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

    async def _guarded(self, job: _Job, node: NodeConfig) -> Outcome:
        """Run the job; whatever fails, no `<id>_next` stays, and a refusal leaves its log."""
        header = headers.ep_config(job.spec.options)
        try:
            with explained(f"endpoint {job.spec.id}"):
                return await self._run(job, node, header)
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

    async def _run(self, job: _Job, node: NodeConfig, header: str) -> Outcome:
        with job.watch.phase("headers"):
            if self._state.header(job.spec.id) != header:
                job.build.begin(header)
        with job.watch.phase("template"):
            template = await self._templates.get(headers.of_node(node), header, job.watch)
        constants = _constants(job.spec, node)
        wanted = model.config_hash(template.hash, self._kernel.attachers.mode_of(job.spec), constants)
        with job.watch.phase("observe"):
            lost = await self._lost(job.live)
        reason = model.reload_reason(job.spec, job.level, wanted, job.live, lost)
        if reason is None and job.live is not None:
            record = await self._refresh(job, job.live, header)
        else:
            job.build.begin(header)
            record = await self._reload(job, template, constants, wanted)
        return Outcome(
            Status(job.spec.id, record, reachable=True, policy=await self._policy(job), problems=()),
            _level(reason),
            reason,
            tuple(job.watch.phases),
            tuple(job.changes) if job.live is not None else (),  # of a first build everything is new
        )

    async def _policy(self, job: _Job) -> PolicyContent:
        """Return what the map was filled with, or what an update has made of that since."""
        filled = model.policy_content(job.policy)
        same = self._kernel.policies.digest(job.spec.id) == filled.digest
        return filled if same else await self._kernel.datapath.policy_content(job.spec.id)

    async def _lost(self, live: EndpointRecord | None) -> list[str]:
        if live is None:
            return []
        return model.program_problems(live, await self._kernel.datapath.running(live))

    async def _refresh(self, job: _Job, live: EndpointRecord, header: str) -> EndpointRecord:
        """Level 1: the loaded programs stay. The directory is written anew only when something in it changes."""
        record = dataclasses.replace(live, spec=job.spec)
        if record != live:
            job.build.begin(header)
        if job.build.begun:
            job.build.intend(record)
        job.changes.extend(await self._kernel.host.problems(job.spec))
        with contextlib.ExitStack() as held:
            async with contextlib.AsyncExitStack() as undo:
                steps = Steps(self._kernel, job.spec, undo, held)
                await _enforce(job, steps, steps.open_policy(), None)
                undo.pop_all()
        return record

    async def _reload(
        self, job: _Job, template: Template, constants: Mapping[str, int | bytes], wanted: str
    ) -> EndpointRecord:
        """Level 2: load with this endpoint's constants, then put in force what was loaded."""
        with contextlib.ExitStack() as held:
            # Left before `held`: an undo needs the descriptors.
            async with contextlib.AsyncExitStack() as undo:
                steps = Steps(self._kernel, job.spec, undo, held)
                with job.watch.phase("load"):
                    policy = steps.open_policy()
                    programs = held.enter_context(await self._load(template, constants, policy, job.watch))
                mode = self._kernel.attachers.mode_of(job.spec)
                record = EndpointRecord(
                    spec=job.spec,
                    config_hash=wanted,
                    template_hash=template.hash,
                    attach_mode=mode,
                    policy_map=libbpf.map_info(policy.fd).id,
                    programs=_describe(programs, mode, job.spec.id),
                    request_id=telemetry.request_id(),
                )
                job.build.intend(record)
                await _enforce(job, steps, policy, programs)
                undo.pop_all()
        if job.live is not None:
            await withdraw(self._kernel, job.live, record)
        return record

    async def _load(
        self, template: Template, constants: Mapping[str, int | bytes], policy: policymaps.Policy, watch: Stopwatch
    ) -> Programs:
        datapath = self._kernel.datapath
        if maps.CONNTRACK in template.code.maps and datapath.flows is None:
            await self._kernel.blocking.run(datapath.open_flows)
        shared = {**datapath.shared, maps.POLICY: policy.fd}
        return await self._images.load(template.hash, template.code, constants, shared, watch)


async def _enforce(job: _Job, steps: Steps, policy: policymaps.Policy, programs: Programs | None) -> None:
    """Take the steps in their order, and commit. `programs` None: those that are loaded stay."""
    watch = job.watch
    with watch.phase("policy"):
        job.changes.extend(await steps.fill(policy, job.policy))
    if programs is not None:
        with watch.phase("attach"):
            steps.slot(programs)
            await steps.attach(programs, job.live)
    with watch.phase("host"):
        await steps.connect(job.live)
    with watch.phase("maps"):
        job.changes.extend(steps.publish())
    if job.build.begun:
        with watch.phase("commit"):
            job.build.commit()


def _level(reason: str | None) -> Level:
    return Level.NO_REBUILD if reason is None else Level.REWRITE_LOAD


def _check_link(spec: EndpointSpec) -> None:
    if not link_exists(spec):
        raise NotFound(
            f"endpoint {spec.id}: there is no link {spec.host_ifname} with index {spec.host_ifindex}",
            ifname=spec.host_ifname,
            ifindex=spec.host_ifindex,
        )


def _constants(spec: EndpointSpec, node: NodeConfig) -> dict[str, int | bytes]:
    return layout.endpoint_constants(
        endpoint_id=spec.id,
        identity=spec.identity,
        addresses=spec.addresses,
        gateways=node.gateways,
        pod_mac=spec.pod_mac,
        host_mac=spec.host_mac,
        host_ifindex=spec.host_ifindex,
        chained=spec.chained,
    )


def _describe(programs: Programs, mode: str, id_: int) -> tuple[Program, ...]:
    found = []
    for name, fd in programs.fds.items():
        info = libbpf.program_info(fd)
        where = hook(mode, name, id_)
        found.append(Program(name, info.id, info.tag, info.instructions, info.verified_instructions, where))
    return tuple(found)


def _newer(live: EndpointRecord, generation: int) -> FailedPrecondition:
    return FailedPrecondition(
        f"endpoint id {live.spec.id} belongs to generation {live.spec.generation} ({live.spec.attachment}) now; the "
        f"request is for {f'generation {generation}, which is gone' if generation else 'what nobody has a record of'}",
        endpoint=live.spec.id,
        generation=live.spec.generation,
    )
