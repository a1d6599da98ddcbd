"""kill -9 of any service right before each of its effects, on a whole node: everything converges.

An effect is what a service does to the world (`tests/killed.py`), so between two of these kills there is none that
could leave anything else. The lists below are all effects of an operation; a test holds each against a trace of the
real services, so that a step that is added without a crash point fails.
"""

import contextlib
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.common.model import Attachment
from tests.agreement import until
from tests.crash_site import RefusedAdd, Site, be_counted
from tests.journal_support import files, journalled
from tests.node_support import SERVICES, Pod

pytestmark = [pytest.mark.privileged, pytest.mark.long]


def _written(path: str) -> list[str]:
    return [f"open {path}", f"write {path}"]


RECORD = [*_written("state/links/<link>.json.new"), "rename state/links/<link>.json.new"]
BEGIN = ["mkdir state/<id>_next", *_written("state/<id>_next/ep_config.h")]
INTENT = [*_written("state/<id>_next/template.txt"), *_written("state/<id>_next/endpoint.json")]
SWAP = [
    "exchange state/<id>_next state/<id>",
    *(f"remove state/<id>_next/{name}" for name in ("endpoint.json", "template.txt", "ep_config.h")),
    "rmdir state/<id>_next",
    "answer RegenerateEndpoint",
]
# Those that go the way of a change of the configuration are interrupted where they leave it.
CHANGES = {
    "config change": ("loader", "endpoint"),
    "regeneration": ("endpoint",),
    "new shape": ("loader",),
    "policy change": ("loader",),
    "refused build": ("loader",),
}
TEMPLATE = "state/templates/.<hash>.<pid>"
NODE = [
    effect
    for name in (".node_config.h", ".node.json")
    for effect in (*_written(f"state/globals/{name}"), f"rename state/globals/{name}")
]
FILL = ["map_update_batch podlane_policy", "map_update podlane_revision"]
ATTACH = ["map_update podlane_call_policy", "netlink newqdisc newfilter", "netlink setlink newneigh newroute"]

EFFECTS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "add": {
        "ipam": [
            "commit Store.add",
            "answer AllocateAddresses",
            "commit Store.update",
            "answer ConfirmAllocation",
        ],
        "loader": [
            *RECORD,
            "netlink newlink setlink",
            "netlink setlink newaddr newroute",
            *RECORD,
            "answer CreateLink",
            *BEGIN,
            "pin policy_<id>",
            *INTENT,
            *FILL,
            *ATTACH,
            "map_update podlane_endpoints",
            "map_update podlane_endpoints",
            "rename state/<id>_next",
            "answer RegenerateEndpoint",
        ],
        "endpoint": [
            "commit Store.insert",
            "call loader RegenerateEndpoint",
            "call ipam ConfirmAllocation",
            "answer CreateEndpoint",
            "commit Store.update",
            "commit EmbeddedKvstore.put",
        ],
    },
    "del": {
        "endpoint": [
            "commit Store.update",
            "call loader RemoveEndpoint",
            "commit Store.delete",
            "answer DeleteEndpoint",
            "commit EmbeddedKvstore.delete",
        ],
        "loader": [
            "map_delete podlane_endpoints",
            "map_delete podlane_endpoints",
            "netlink setlink",
            "map_delete podlane_call_policy",
            "netlink delfilter",
            "remove bpf/podlane/maps/policy_<id>",
            "map_delete_batch podlane_metrics",
            "remove state/<id>/endpoint.json",
            "remove state/<id>/template.txt",
            "remove state/<id>/ep_config.h",
            "rmdir state/<id>",
            "answer RemoveEndpoint",
            "netlink dellink",
            "remove state/links/<link>.json",
            "answer DeleteLink",
        ],
        "ipam": ["commit Store.remove", "answer ReleaseAddresses"],
    },
    "journalled del": {
        "endpoint": [
            "commit Store.update",
            "call loader RemoveEndpoint",
            "commit Store.delete",
            "call loader DeleteLink",
            "call ipam ReleaseAddresses",
            "remove journal/podlane~<hash>~eth0.json",
            "commit EmbeddedKvstore.delete",
        ],
    },
    "config change": {
        "loader": [*BEGIN, *INTENT, *ATTACH, *SWAP],
        "endpoint": [
            "commit Store.update",
            "call loader RegenerateEndpoint",
            "commit Store.update",
            "answer SetOptions",
        ],
    },
    "regeneration": {
        "loader": [*BEGIN, *INTENT, *ATTACH, *SWAP],
        "endpoint": ["call loader RegenerateEndpoint", "commit Store.update", "answer RegenerateEndpoints"],
    },
    "new shape": {
        "loader": [
            *BEGIN,
            f"mkdir {TEMPLATE}",
            *_written(f"{TEMPLATE}/node_config.h"),
            *_written(f"{TEMPLATE}/ep_config.h"),
            f"open {TEMPLATE}/bpf_lxc.o",
            *_written(f"{TEMPLATE}/template.json"),
            f"rename {TEMPLATE}",
            *INTENT,
            *ATTACH,
            *SWAP,
        ]
    },
    "policy change": {"loader": [*FILL, "netlink setlink newneigh newroute", "answer RegenerateEndpoint"]},
    "policy apply": {
        "endpoint": ["commit PolicyStore.change", "call loader UpdatePolicies", "answer ApplyPolicies"],
        "loader": [
            "map_update_batch podlane_policy",
            "map_update_batch podlane_prefixes",
            "map_delete_batch podlane_policy",
            "map_update podlane_revision",
            "answer UpdatePolicies",
        ],
    },
    "policy delete": {
        "endpoint": ["commit PolicyStore.change", "call loader UpdatePolicies", "answer DeletePolicies"],
        "loader": [
            "map_update_batch podlane_policy",
            "map_delete_batch podlane_prefixes",
            "map_delete_batch podlane_policy",
            "map_update podlane_revision",
            "answer UpdatePolicies",
        ],
    },
    "labels": {
        "endpoint": [
            "commit PolicyStore.change",
            "commit Store.update",
            "call loader RegenerateEndpoint",
            "commit Store.update",
            "commit EmbeddedKvstore.put",
            "answer UpdateLabels",
        ],
        "loader": [*BEGIN, *INTENT, *ATTACH, "map_update podlane_endpoints", "map_update podlane_endpoints", *SWAP],
    },
    "refused build": {
        "loader": [
            *BEGIN,
            *_written("state/<id>_next/verifier.log"),
            "remove state/<id>_next_fail/verifier.log",
            "remove state/<id>_next_fail/ep_config.h",
            "rmdir state/<id>_next_fail",
            "rename state/<id>_next",
            "answer RegenerateEndpoint",
        ]
    },
    "refused add": {
        "ipam": [
            "commit Store.update",
            "answer ConfirmAllocation",
            "commit Store.update",
            "answer UnconfirmAllocation",
        ],
        "endpoint": [
            "commit PolicyStore.change",
            "commit Store.insert",
            "call loader RegenerateEndpoint",
            "call ipam ConfirmAllocation",
            "call loader RemoveEndpoint",
            "call ipam UnconfirmAllocation",
            "commit Store.delete",
            "answer CreateEndpoint",
        ],
    },
    "start": {
        "loader": [
            "map_update podlane_revision",
            *NODE,
            *NODE,
            "answer ConfigureNode",
        ],
        "endpoint": ["call loader ConfigureNode", *["commit EmbeddedKvstore.put"] * 2],
    },
}


BY_HAND = {"policy change", "refused build"}
"""What no service asks the loader for yet."""


def points(operation: str, *services: str) -> list[Any]:
    """Return service, effect and its number as pytest's parameters."""
    found = []
    for service in services or EFFECTS[operation]:
        seen = Counter[str]()
        for effect in EFFECTS[operation][service]:
            seen[effect] += 1
            number = seen[effect]
            found.append(pytest.param(service, effect, number, id=f"{service}, {effect}, {number}"))
    return found


@pytest.mark.parametrize("operation", EFFECTS)
def test_the_crash_points_of_an_operation_are_all_its_effects(site: Site, operation: str):
    node, pod = site.node, site.node.pod()
    refused = RefusedAdd(site, pod) if operation == "refused add" else None
    if operation in {"del", "journalled del"}:
        node.add(pod)
        be_counted(pod)
    if operation == "refused build":
        site.do(operation)  # an earlier failure is replaced
    if operation == "new shape":
        site.forget_shape()
    if operation == "policy delete":
        site.do("policy apply")
    expected = {service: Counter(effects) for service, effects in EFFECTS[operation].items()}

    with contextlib.ExitStack() as stack:
        traces = {service: stack.enter_context(node.traced(service)) for service in expected}
        if operation in {"add", "del"}:
            assert node.cni(operation.upper(), pod).code == 0
        elif operation == "journalled del":
            journalled_del(site, pod)
        elif refused is not None:
            assert refused.create() == grpc.StatusCode.FAILED_PRECONDITION
        elif operation == "start":
            for service in SERVICES:
                node.kill(service)
            for service in ("loader", "ipam"):
                node.launch(service)
                until(functools.partial(site.agreement.answers, service), node.logs)
            node.revive("endpoint")
        else:
            site.do(operation)
        # Some of it comes behind the answer.
        until(lambda: all(Counter(traces[one]()) >= expected[one] for one in expected), lambda: "effects are missing")

    found = {service: Counter(trace()) for service, trace in traces.items()}
    if operation == "start":
        # A start on a busy machine may try something twice: it is the same effect.
        found, expected = ({one: Counter(set(few)) for one, few in each.items()} for each in (found, expected))
    assert found == expected
    node.delete(pod)
    site.back()
    site.nothing_left()


@pytest.mark.parametrize(("service", "effect", "number"), points("add"))
def test_an_add_whose_service_and_plugin_are_killed_is_whole_or_undone(
    site: Site, service: str, effect: str, number: int
):
    """What the plugin would have undone is there when the runtime tries again."""
    pod = site.node.pod()
    site.interrupted_add(pod, service, effect, number, together=True)

    site.agreement.reached()
    site.add_works(pod)
    site.del_works(pod)


@pytest.mark.parametrize(("service", "effect", "number"), [*points("add", "ipam"), *points("add", "endpoint")])
def test_an_add_whose_service_is_killed_is_undone_by_the_plugin_or_later(
    site: Site, service: str, effect: str, number: int
):
    pod = site.node.pod()
    site.interrupted_add(pod, service, effect, number, together=False)

    # The plugin's undoing is a DEL, which the same death may have interrupted.
    site.agreement.reached(deleting=pod)
    site.add_works(pod)
    site.del_works(pod)


@pytest.mark.parametrize(("service", "effect", "number"), points("del"))
def test_a_del_that_is_interrupted_is_finished(site: Site, service: str, effect: str, number: int):
    pod = site.node.pod()
    site.node.add(pod)
    be_counted(pod)
    site.interrupt(service, effect, number, lambda: site.node.cni("DEL", pod))

    site.agreement.reached(deleting=pod)
    site.del_works(pod)


def journalled_del(site: Site, pod: Pod) -> Path:
    """Journal the deletion of a pod; return the journal's directory."""
    directory = site.node.loaded.endpoint.journal_dir
    journalled(directory, Attachment("podlane", pod.container_id, pod.ifname))
    return directory


@pytest.mark.parametrize(("service", "effect", "number"), points("journalled del"))
def test_a_journalled_del_that_is_interrupted_is_finished(site: Site, service: str, effect: str, number: int):
    """The entry stays until all is done, and its lock goes with the process."""
    pod = site.node.pod()
    site.node.add(pod)
    site.node.arm(service, effect, number)
    directory = journalled_del(site, pod)
    site.node.dies(service)
    site.node.revive(service)

    until(lambda: not files(directory), site.node.logs)
    site.nothing_left()
    site.add_works(pod)
    site.del_works(pod)


@pytest.mark.parametrize(
    ("operation", "service", "effect", "number"),
    [
        pytest.param(operation, *point.values, id=f"{operation}, {point.id}")
        for operation, services in CHANGES.items()
        for point in points(operation, *services)
        if operation == "config change" or point.values[1] not in [*BEGIN, *INTENT, *ATTACH, *SWAP]
    ],
)
def test_a_change_that_is_interrupted_leaves_the_endpoint_whole_and_can_be_repeated(
    site: Site, operation: str, service: str, effect: str, number: int
):
    if operation == "new shape":
        site.forget_shape()
    if operation == "refused build":
        site.do(operation)  # an earlier failure is replaced
    site.interrupt(service, effect, number, lambda: site.do(operation))

    site.agreement.reached()
    site.as_configured()
    site.do(operation)
    site.as_configured()
    if operation in BY_HAND:
        assert site.do(operation) == site.do(operation)
    else:
        assert [(one.id, one.error) for one in site.do(operation)] == [(2, "")]
    site.back()
    site.nothing_left()


@pytest.mark.parametrize(
    ("operation", "service", "effect", "number"),
    [
        pytest.param(operation, *point.values, id=f"{operation}, {point.id}")
        for operation in ("policy apply", "policy delete", "labels")
        for point in points(operation)
        if operation != "labels" or point.values[0] == "endpoint"
    ],
)
def test_a_change_of_policy_that_is_interrupted_is_whole_or_undone_and_can_be_repeated(
    site: Site, operation: str, service: str, effect: str, number: int
):
    """What the documents and labels ask for is what the maps, the prefixes and the programs have."""
    if operation == "policy delete":
        site.do("policy apply")
    site.interrupt(service, effect, number, lambda: site.do(operation))

    site.agreement.reached()
    assert site.as_asked() == []
    site.do(operation)
    assert site.as_asked() == []
    site.back()
    assert site.as_asked() == []
    site.nothing_left()


@pytest.mark.parametrize(("service", "effect", "number"), points("refused add"))
def test_the_undoing_of_a_refused_add_that_is_interrupted_is_finished(
    site: Site, service: str, effect: str, number: int
):
    pod = site.node.pod()
    refused = RefusedAdd(site, pod)
    site.interrupt(service, effect, number, refused.create)

    site.agreement.reached()
    assert refused.create() == grpc.StatusCode.FAILED_PRECONDITION
    site.add_works(pod)
    site.del_works(pod)


@pytest.mark.parametrize(("service", "effect", "number"), points("start"))
def test_a_start_that_is_interrupted_is_repeated(site: Site, service: str, effect: str, number: int):
    site.node.kill(service)
    site.node.arm(service, effect, number)
    site.node.launch(service)
    site.node.dies(service)
    site.node.revive(service)

    pod = site.node.pod()
    site.add_works(pod)
    site.del_works(pod)
