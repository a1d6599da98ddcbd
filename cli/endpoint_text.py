"""An endpoint in lines for people."""

import time
from collections.abc import Mapping
from typing import Any

from cli.present import age, enum_name, level_name, plain
from cli.present import labels as spelled

# The newest lines of the log that `get` shows; `log` shows all.
_LINES = 10


def describe(endpoint: Any) -> list[str]:
    """Return what there is to know of it."""
    told = plain(endpoint)
    pod = f"{endpoint.pod.namespace}/{endpoint.pod.name}" if endpoint.pod.name else "-"
    state = told["state"] + (f" (waiting for {endpoint.waiting_for})" if endpoint.waiting_for else "")
    link, attachment = endpoint.link, endpoint.attachment
    lines = [
        f"endpoint    {endpoint.id} (generation {endpoint.generation})",
        f"state       {state}",
        f"health      {describe_health(endpoint.health)}",
        f"identity    {endpoint.identity}",
        *_describe_policy(endpoint),
        f"pod         {pod}",
        f"attachment  network {attachment.network}, container {attachment.container_id}, {attachment.ifname}",
        f"addresses   {', '.join(one['address'] for one in told['addresses'])}",
        f"link        {link.host_ifname} (ifindex {link.host_ifindex}, {plain(link.host_mac)}), MTU {link.mtu}",
        f"pod mac     {plain(link.pod_mac)}",
        f"created     {told['created']}",
    ]
    if endpoint.options:
        lines.append(f"options     {', '.join(_switches(endpoint.options))}")
    if endpoint.HasField("last_regeneration"):
        lines += _describe_regeneration(endpoint.last_regeneration)
    counters = endpoint.counters
    lines.append(
        f"counters    regenerations {counters.regenerations}, failed {counters.failures}, triggers folded into others "
        f"{counters.folded}, transitions refused {counters.refused}"
    )
    lines += _describe_queue(endpoint.queue)
    if endpoint.HasField("published"):
        published = endpoint.published
        lines.append(f"published   {published.key}, revision {published.revision}, {told['published']['written']}")
    return lines + [f"log         {line}" for line in log_lines(endpoint)[-_LINES:]]


def _describe_policy(endpoint: Any) -> list[str]:
    lines = [f"label       {label}" for label in spelled(endpoint.identity_labels)]
    for way, policies in (("ingress", endpoint.ingress_policies), ("egress", endpoint.egress_policies)):
        if policies:
            lines.append(f"{way:<11} isolated by {', '.join(policies)}")
    if endpoint.policy_error:
        lines.append(f"policy      not what it should be: {endpoint.policy_error}")
    return lines


def _switches(options: Mapping[str, bool]) -> list[str]:
    return [f"{name} {'on' if enabled else 'off'}" for name, enabled in sorted(options.items())]


def _describe_queue(queue: Any) -> list[str]:
    lines = []
    if queue.running:
        lines.append(f"running     {queue.running}, for {age(time.time() - queue.running_since.seconds)}")
    if queue.waiting:
        lines.append(f"waiting     {', '.join(queue.waiting)} ({len(queue.waiting)} of {queue.size})")
    return lines


def log_lines(endpoint: Any) -> list[str]:
    """Return an endpoint's log, a line per entry, the newest last."""
    return [
        f"{entry['time']} {entry['type']:<6} {entry['code']:<7} {entry['state']}: {entry['message']}"
        for entry in plain(endpoint)["log"]
    ]


def describe_health(health: Any) -> str:
    """Return an endpoint's health in one line."""
    kind = health.DESCRIPTOR.enum_types_by_name["Status"]
    parts = ", ".join(f"{part} {enum_name(kind, getattr(health, part))}" for part in ("bpf", "policy", "connected"))
    return f"{enum_name(kind, health.overall)} ({parts})"


def _describe_regeneration(regeneration: Any) -> list[str]:
    level = level_name(regeneration.level)
    outcome = f"failed: {regeneration.error}" if regeneration.error else "ok"
    changes = "; ".join(filter(None, (regeneration.reload_reason, *regeneration.changes)))
    phases = ", ".join(f"{phase.name} {phase.duration_us / 1000:.2f} ms" for phase in regeneration.phases)
    lines = [f"regenerated {level}, {outcome} ({'; '.join(regeneration.reasons)})", f"phases      {phases}"]
    if changes:
        lines.append(f"changes     {changes}")
    if regeneration.request_id:
        lines.append(f"loaded by   request {regeneration.request_id}: it is on its lines in the services' logs")
    return lines + [
        f"program     {program.name} id {program.id} tag {program.tag.hex()} at {program.hook}: "
        f"{program.instructions} instructions, {program.verified_instructions} verified"
        for program in regeneration.programs
    ]
