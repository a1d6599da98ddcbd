"""The two levels of a regeneration: what each does to the kernel and to the state directory.

    level 1   policy map, node's end and routes, endpoint map entries; `<id>_next` only if something in it changes
    level 2   template → load with this endpoint's constants → all of that, and the programs → commit

Both put in force by the same steps (steps.py), of which an error undoes those that were taken. What is about to be is
on disk before the first of them.

Not here: who may regenerate which generation, and what is left of a failure (regenerate.py).
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.common import telemetry
from services.common.model import Phase
from services.common.stopwatch import Stopwatch
from services.loader import headers, layout, libbpf, maps, model, policymaps
from services.loader.attach import hook
from services.loader.image import Images
from services.loader.inventory import Status
from services.loader.model import EndpointRecord, EndpointSpec, Level, NodeConfig, PolicyContent, PolicyEntry, Program
from services.loader.objects import Programs
from services.loader.spares import Shape, Spares
from services.loader.statedir import Build, StateDir
from services.loader.steps import Kernel, Steps, withdraw
from services.loader.template import Template, Templates


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a regeneration did or would do, why programs are loaded (None: they are not), and what else differs."""

    status: Status
    level: Level
    reason: str | None
    phases: tuple[Phase, ...]
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """One regeneration under way."""

    spec: EndpointSpec
    level: Level
    policy: Sequence[PolicyEntry]
    live: EndpointRecord | None
    build: Build
    watch: Stopwatch
    changes: list[str] = dataclasses.field(default_factory=list)


class Levels:
    """Does one job at a time per endpoint; whoever calls holds its lock."""

    def __init__(self, state: StateDir, templates: Templates, kernel: Kernel, images: Images, spares: Spares) -> None:
        """Wire; nothing is touched."""
        self._state = state
        self._templates = templates
        self._kernel = kernel
        self._images, self._spares = images, spares

    async def run(self, job: Job, node: NodeConfig, header: str) -> Outcome:
        """Do what the job asks for, at level 2 where its programs don't fit. What fails is raised as it is."""
        with job.watch.phase("headers"):
            if self._state.header(job.spec.id) != header:
                job.build.begin(header)
        with job.watch.phase("template"):
            template = await self._templates.get(headers.of_node(node), header, job.watch)
        constants = constants_of(job.spec, node)
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
            level_of(reason),
            reason,
            tuple(job.watch.phases),
            tuple(job.changes) if job.live is not None else (),  # of a first build everything is new
        )

    async def _policy(self, job: Job) -> PolicyContent:
        """Return what the map was filled with, or what an update has made of that since."""
        filled = model.policy_content(job.policy)
        same = self._kernel.policies.digest(job.spec.id) == filled.digest
        return filled if same else await self._kernel.datapath.policy_content(job.spec.id)

    async def _lost(self, live: EndpointRecord | None) -> list[str]:
        if live is None:
            return []
        return model.program_problems(live, await self._kernel.datapath.running(live))

    async def _refresh(self, job: Job, live: EndpointRecord, header: str) -> EndpointRecord:
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
        self, job: Job, template: Template, constants: Mapping[str, int | bytes], wanted: str
    ) -> EndpointRecord:
        """Level 2: load with this endpoint's constants, then put in force what was loaded."""
        with contextlib.ExitStack() as held:
            # Left before `held`: an undo needs the descriptors.
            async with contextlib.AsyncExitStack() as undo:
                steps = Steps(self._kernel, job.spec, undo, held)
                with job.watch.phase("load"):
                    policy, programs = await self._loaded(job, steps, template, constants)
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

    async def _loaded(
        self, job: Job, steps: Steps, template: Template, constants: Mapping[str, int | bytes]
    ) -> tuple[policymaps.Policy, Programs]:
        """Return the endpoint's policy map and programs on it: spare ones, if it has none of its own and one fits."""
        datapath = self._kernel.datapath
        if maps.CONNTRACK in template.code.maps and datapath.flows is None:
            await self._kernel.blocking.run(datapath.open_flows)
        shape = Shape(template.hash, template.code, constants, datapath.shared)
        if job.live is None and not datapath.has_policy(job.spec.id):
            spare = self._spares.take(shape)
            if spare is not None:
                with spare.variables:
                    steps.hold(spare.programs)
                    return steps.open_policy(spare.policy), spare.programs
        policy = steps.open_policy()
        on = {**shape.maps, maps.POLICY: policy.fd}
        programs = await self._images.load(template.hash, template.code, constants, on, job.watch)
        return policy, steps.hold(programs)


async def _enforce(job: Job, steps: Steps, policy: policymaps.Policy, programs: Programs | None) -> None:
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


def level_of(reason: str | None) -> Level:
    """Return the level at which a reason to load programs, or none, is dealt with."""
    return Level.NO_REBUILD if reason is None else Level.REWRITE_LOAD


def constants_of(spec: EndpointSpec, node: NodeConfig) -> dict[str, int | bytes]:
    """Return what an endpoint's programs have as constants."""
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
