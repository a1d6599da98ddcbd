"""Policy in the endpoint service: documents in, changes of policy maps out, and what becomes of identities.

What the kernel lets pass is for test_policy_kernel.py; here is what the loader is asked for, when, and what is left
after refusals, losses and restarts.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from podlane.endpoint.v1 import policy_pb2 as pb
from podlane.loader.v1 import loader_pb2

from services.common.errors import Exhausted, InvalidArgument, NotFound, Unavailable
from services.endpoint.policies import Policies
from tests.endpoint_support import Client, Surroundings, kill
from tests.policies_support import (
    EGRESS,
    HOST,
    INGRESS,
    OPEN,
    OUT,
    asked,
    entries,
    from_app,
    name,
    pod_document,
    policy,
    started,
    until,
)


@pytest.fixture
async def around() -> AsyncIterator[Surroundings]:
    """Fakes and directories."""
    async with Surroundings() as around:
        yield around


@pytest.fixture
async def client(around: Surroundings) -> AsyncIterator[Client]:
    """The service in this process."""
    async with around.service() as client:
        yield client


async def test_a_policy_changes_maps_and_no_program(around: Surroundings, client: Client) -> None:
    """One call for all endpoints that it selects, and none for the others."""
    webs = [await started(around, client, f"web-{number}", "web") for number in range(3)]
    other = await started(around, client, "client", "client")
    identity = (await client.get(other)).identity
    built, updated = len(asked(around, "RegenerateEndpoint")), len(asked(around, "UpdatePolicies"))

    reply = await client.apply(policy("web", from_app("client")))

    assert [(one.name.name, one.change) for one in reply.documents] == [("web", pb.AppliedDocument.CHANGE_CREATED)]
    assert (reply.effect.endpoints, reply.effect.entries_added, reply.effect.entries_removed) == (3, 6, 3)
    assert not reply.effect.failures
    assert len(asked(around, "RegenerateEndpoint")) == built
    assert len(asked(around, "UpdatePolicies")) == updated + 1
    for id_ in (1, 2, 3):
        assert entries(around, id_) == {HOST, OUT, (INGRESS, identity, 6, 80, 16, False)}
    assert entries(around, 4) == OPEN
    endpoint = await client.get(webs[0])
    assert endpoint.log[-1].type == "policy"
    assert "NetworkPolicy default/web" in endpoint.log[-1].message
    assert endpoint.last_regeneration.level == loader_pb2.REGENERATION_LEVEL_NO_REBUILD
    assert list(endpoint.ingress_policies) == ["default/web"]

    again = await client.apply(policy("web", from_app("client")))

    assert again.documents[0].change == pb.AppliedDocument.CHANGE_UNCHANGED
    assert len(asked(around, "UpdatePolicies")) == updated + 1

    gone = await client.forget(name("web"))

    assert gone.documents[0].change == pb.AppliedDocument.CHANGE_DELETED
    assert entries(around, 1) == OPEN
    assert not await client.documents()


async def test_nothing_is_taken_from_a_text_with_a_mistake(around: Surroundings, client: Client) -> None:
    """The error names file, document, path and line."""
    await started(around, client, "web", "web")
    wrong = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: two}\nspec:\n  podSelecter: {}\n"

    with pytest.raises(InvalidArgument, match=r"test\.yaml: 1 problem.*NetworkPolicy default/two: spec\.podSelecter"):
        await client.apply(policy("one"), wrong)

    assert not await client.documents()
    assert entries(around, 1) == OPEN
    with pytest.raises(NotFound, match="NetworkPolicy default/one"):
        await client.forget(name("one"))


async def test_a_new_identity_is_in_its_peers_maps_before_its_endpoint_is_built(
    around: Surroundings, client: Client
) -> None:
    """So a pod's first packet is let in where policy says so, and its own map has its policy from the first moment."""
    await client.apply(pod_document("client", "client"), policy("web", from_app("client")), policy("c", app="client"))
    await started(around, client, "web", "web")
    before = len(around.loader.script.calls)

    pod = await started(around, client, "client")

    identity = (await client.get(pod)).identity
    assert identity >= 256
    assert (INGRESS, identity, 6, 80, 16, False) in entries(around, 1)
    called = [method for method, _ in around.loader.script.calls[before:]]
    assert called.index("UpdatePolicies") < called.index("RegenerateEndpoint")
    first = asked(around, "RegenerateEndpoint")[-1]
    assert first.endpoint.identity == identity
    assert {(one.direction, one.identity) for one in first.policy} == {(INGRESS, 1), (EGRESS, 0)}


async def test_an_endpoint_that_becomes_somebody_else_is_rebuilt_with_that(
    around: Surroundings, client: Client
) -> None:
    """Its peers know the new identity first. The same labels are the same identity."""
    web, one, two = [await started(around, client, pod) for pod in ("web", "one", "two")]
    await client.label(web, app="web")
    await client.apply(policy("web", from_app("client")))
    assert (await client.get(one)).identity == 5
    before = len(around.loader.script.calls)

    reply = await client.label(one, app="client")

    assert dict(reply.endpoint.identity_labels)["k8s:app"] == "client"
    identity = reply.endpoint.identity
    called = [method for method, _ in around.loader.script.calls[before:]]
    assert called.index("UpdatePolicies") < called.index("RegenerateEndpoint")
    assert asked(around, "RegenerateEndpoint")[-1].endpoint.identity == identity
    assert (INGRESS, identity, 6, 80, 16, False) in entries(around, 1)
    assert (await client.label(two, app="client")).endpoint.identity == identity
    assert (await client.label(one, app=None)).endpoint.identity != identity
    found = await client.get(one)
    assert list(found.removed_labels) == ["app"]
    with pytest.raises(InvalidArgument, match="label 'a b'"):
        await client.label(one, **{"a b": "c"})


async def test_documents_and_identities_outlive_the_service(around: Surroundings) -> None:
    """A restart with nothing changed touches no map and no program."""
    async with around.process() as (process, client):
        web = await started(around, client, "web", "web")
        one = await started(around, client, "client", "client")
        await client.apply(policy("web", from_app("client"), {"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}))
        before = {id_: entries(around, id_) for id_ in (1, 2)}
        identities = [(await client.get(pod)).identity for pod in (web, one)]
        prefixes = dict(around.kernel.prefixes)
        assert len(prefixes) == 1
        await kill(process)
    around.loader.script.calls.clear()

    async with around.process() as (_process, client):
        await client.until(web)
        assert list(await client.documents()) == ["1 default/web"]
        assert [(await client.get(pod)).identity for pod in (web, one)] == identities
        assert not asked(around, "RegenerateEndpoint")
        assert not asked(around, "UpdatePolicies")
        assert {id_: entries(around, id_) for id_ in (1, 2)} == before
        assert around.kernel.prefixes == prefixes
        await client.forget(name("web"))
        assert entries(around, 1) == OPEN
        assert not around.kernel.prefixes


async def test_a_change_that_a_kill_has_kept_from_the_kernel_is_made_up_for(around: Surroundings) -> None:
    """It was on disk; the next start finds the maps behind it."""
    async with around.process() as (process, client):
        await started(around, client, "web", "web")
        async with around.loader.script.hold("UpdatePolicies", lose=True):
            applying = asyncio.create_task(client.apply(policy("web")))
            await around.loader.script.until(lambda: around.loader.script.count("UpdatePolicies") > 0)
            await kill(process)
        with pytest.raises(Unavailable):
            await applying
        assert entries(around, 1) == OPEN

    async with around.process():
        await until(lambda: entries(around, 1) == {HOST, OUT})


async def test_a_map_that_a_hand_was_in_is_written_as_a_whole(around: Surroundings, client: Client) -> None:
    """The loader refuses a change of what it doesn't find; the endpoint is regenerated, and the caller waits for it."""
    pod = await started(around, client, "web", "web")
    stray = (INGRESS, 4711, 0, 0, 0, False)
    around.kernel.policies[1][stray[:-1]] = stray

    reply = await client.apply(policy("web"))

    assert not reply.effect.failures
    assert entries(around, 1) == {HOST, OUT}
    assert "could not be changed" in (await client.get(pod)).last_regeneration.reasons[0]


async def test_what_the_loader_could_not_be_told_is_told_when_it_is_back(around: Surroundings, client: Client) -> None:
    """The caller hears that it isn't in force yet; the change itself stands."""
    await started(around, client, "web", "web")
    around.loader.script.fail("UpdatePolicies", Unavailable("the loader is busy dying"))
    around.loader.script.fail("RegenerateEndpoint", Unavailable("and dead"))

    reply = await client.apply(policy("web"))

    assert any("the loader is busy dying" in one for one in reply.effect.failures)
    assert list(await client.documents()) == ["1 default/web"]
    await until(lambda: entries(around, 1) == {HOST, OUT})


async def test_a_map_is_not_written_as_a_whole_while_the_kernel_lacks_its_prefixes(
    around: Surroundings, client: Client
) -> None:
    """Whoever is let in by a prefix would be shut out until the kernel has it: a gap for a pod that runs."""
    await started(around, client, "web", "web")
    before = len(around.loader.script.calls)
    around.loader.script.fail("UpdatePolicies", Unavailable("the loader is busy dying"))

    await client.apply(policy("web", {"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}))

    def called() -> list[str]:
        return [method for method, _ in around.loader.script.calls[before:]]

    await until(lambda: "RegenerateEndpoint" in called())
    assert len(entries(around, 1)) == 3
    assert [one for one in called() if one in {"UpdatePolicies", "RegenerateEndpoint"}][:3] == [
        "UpdatePolicies",
        "UpdatePolicies",
        "RegenerateEndpoint",
    ]
    assert asked(around, "UpdatePolicies")[-1].prefixes_added


async def test_prefixes_that_do_not_fit_keep_no_map_from_being_written(around: Surroundings, client: Client) -> None:
    await started(around, client, "web", "web")
    before = len(asked(around, "RegenerateEndpoint"))
    for _ in range(2):
        around.loader.script.fail("UpdatePolicies", Exhausted("the map of prefixes is full"))

    await client.apply(policy("web", {"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}))

    await until(lambda: len(asked(around, "RegenerateEndpoint")) > before)
    await until(lambda: len(entries(around, 1)) == 3)


async def test_a_policy_that_no_map_can_hold_is_refused_and_changes_nothing(
    around: Surroundings, client: Client
) -> None:
    """With what exploded; what was closed stays closed."""
    await started(around, client, "web", "web")
    await client.apply(policy("web"))
    blocks = [{"ipBlock": {"cidr": f"10.{number >> 8}.{number & 255}.0/24"}} for number in range(600)]
    many = policy("many", {"from": blocks, "ports": [{"port": 2, "endPort": 65534}]})

    with pytest.raises(Exhausted, match=r"endpoint 1 .* need 1[678],\d+ map entries .* 16,384"):
        await client.apply(many)

    assert list(await client.documents()) == ["1 default/web"]
    assert entries(around, 1) == {HOST, OUT}
    assert not around.kernel.prefixes


async def test_prefixes_come_with_the_first_block_and_go_with_the_last(around: Surroundings, client: Client) -> None:
    """In the same call as the entries, which is the loader's to order."""
    await started(around, client, "web", "web")
    block = {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.64/26"]}}

    await client.apply(policy("web", {"from": [block]}))

    assert sorted(one.identity for one in around.kernel.prefixes.values()) == [(1 << 24) + 1, (1 << 24) + 2]
    allowed = {identity for _, identity, *_ in entries(around, 1) if identity > 1 << 24}
    assert len(allowed) == 1
    last = asked(around, "UpdatePolicies")[-1]
    assert (len(last.prefixes_added), len(last.changes)) == (2, 1)

    await client.forget(name("web"))

    assert not around.kernel.prefixes


async def test_an_identity_that_nobody_has_any_more_leaves_the_maps_after_its_grace(around: Surroundings) -> None:
    """Until then a pod with the same labels finds its number."""
    settings = around.file.read_text().replace("[endpoint]", "[endpoint]\nidentity_grace_seconds = 0.0")
    around.file.write_text(settings)
    around.reload()
    async with around.service() as client:
        await started(around, client, "web", "web")
        one = await started(around, client, "client", "client")
        await client.apply(policy("web", from_app("client")))
        assert len(entries(around, 1)) == 3
        await client.delete(one)

        await around.component(Policies).backend.expire()

        await until(lambda: entries(around, 1) == {HOST, OUT})
        reply = await client.peer.call(client.policy.ListIdentities, pb.ListIdentitiesRequest(), timeout=5)
        assert [one.id for one in reply.identities] == [1, 2, 5, 256]


async def test_an_endpoint_that_is_being_rebuilt_gets_the_policy_of_meanwhile(
    around: Surroundings, client: Client
) -> None:
    """The regeneration carries what was so when it began; the caller of apply waits until the newer one is there."""
    pod = await started(around, client, "web", "web")
    async with around.loader.script.hold("RegenerateEndpoint"):
        rebuilding = asyncio.create_task(client.regenerate(pod, level=loader_pb2.REGENERATION_LEVEL_REWRITE_LOAD))
        count = around.loader.script.count("RegenerateEndpoint")
        await around.loader.script.until(lambda: around.loader.script.count("RegenerateEndpoint") > count - 1)
        applying = asyncio.create_task(client.apply(policy("web")))
        policies = around.component(Policies)
        await until(lambda: list(policies.repository))
        assert not applying.done()
    await applying

    assert entries(around, 1) == {HOST, OUT}
    await rebuilding


async def test_an_endpoint_for_which_no_identity_is_left_is_not_made(
    around: Surroundings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it stays, and its addresses are the caller's as before."""

    async def none_left(_labels: Any) -> int:
        raise Exhausted("all 65280 identities are taken")

    monkeypatch.setattr(around.component(Policies).backend, "allocate", none_left)
    pod = around.pod("web")
    pod.request.labels["app"] = "web"

    with pytest.raises(Exhausted, match="identities are taken"):
        await client.create(pod)

    assert not await client.endpoints()
    assert around.reserved(pod)


async def test_named_ports_are_those_of_the_pods_document(around: Surroundings, client: Client) -> None:
    """And follow it."""
    await client.apply(pod_document("web", "web", http=8080))
    await started(around, client, "web")
    await client.apply(policy("web", {"ports": [{"port": "http"}]}))
    assert (INGRESS, 0, 6, 8080, 16, False) in entries(around, 1)

    await client.apply(pod_document("web", "web", http=9090))

    assert entries(around, 1) == {HOST, OUT, (INGRESS, 0, 6, 9090, 16, False)}


@pytest.mark.parametrize(("wish", "wanted"), [("allow", OPEN), ("deny", {HOST, (EGRESS, 1, 0, 0, 0, False)})])
async def test_an_endpoint_whose_labels_are_not_known_has_the_rules_of_init(
    around: Surroundings, wish: str, wanted: set[Any]
) -> None:
    """Nothing selects it, not even an empty selector."""
    around.file.write_text(around.file.read_text() + f'init_policy = "{wish}"\n')
    around.reload()
    async with around.service() as client:
        await client.apply(policy("all") | {"spec": {"podSelector": {}}})
        pod = await started(around, client, "web")

        assert (await client.get(pod)).identity == 5
        assert entries(around, 1) == wanted
