"""Watchers, finding endpoints, and steps with their undo."""

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from services.common import controllers
from services.common.errors import AlreadyExists, Exhausted, FailedPrecondition, NotFound, PodlaneError, Unavailable
from services.common.model import AssignedAddress, Attachment, Pod
from services.endpoint.flow import Step, run
from services.endpoint.managed import Home, ManagedEndpoint
from services.endpoint.model import Endpoint, EndpointSpec, EndpointState, Link
from services.endpoint.registry import Registry, Selector
from services.endpoint.watch import Change, Watchers


def endpoint(number: int, pod: Pod | None = None) -> Endpoint:
    """Return an endpoint with an address of its own."""
    attachment = Attachment("podnet", f"c{number}", "eth0")
    address = AssignedAddress(ip_interface(f"10.7.0.{number}/32"), ip_address("10.7.0.254"), ip_network("10.7.0.0/24"))
    link = Link(attachment, f"lxc{number}", number, bytes(6), bytes(6))
    return Endpoint(number, number, EndpointSpec(attachment, pod or Pod(), link, (address,)), 0.0, EndpointState.READY)


def managed(number: int, pod: Pod | None = None) -> ManagedEndpoint:
    """Return a live endpoint that nobody watches."""
    return ManagedEndpoint(endpoint(number, pod), Home(25, controllers.Registry(), lambda _endpoint: None))


async def test_a_watcher_sees_what_exists_then_synced_then_each_change() -> None:
    """Also the changes that came while it read what exists."""
    watchers = Watchers()
    stream = watchers.watch([endpoint(1)])
    assert await anext(stream) == (Change.EXISTING, endpoint(1))
    watchers.tell(Change.UPSERTED, endpoint(2))
    watchers.tell(Change.DELETED, endpoint(1))

    assert await anext(stream) == (Change.SYNCED, None)
    assert await anext(stream) == (Change.UPSERTED, endpoint(2))
    assert await anext(stream) == (Change.DELETED, endpoint(1))
    await stream.aclose()  # type: ignore[attr-defined]  # an async generator, which its type does not say


async def test_a_watcher_that_falls_behind_is_cut_off_and_others_are_not() -> None:
    """Memory has an end; the error says to start again."""
    watchers = Watchers(longest=3)
    slow, quick = watchers.watch([]), watchers.watch([])
    for stream in (slow, quick):
        assert await anext(stream) == (Change.SYNCED, None)
    for number in range(1, 6):
        watchers.tell(Change.UPSERTED, endpoint(number))
        assert (await anext(quick))[1] == endpoint(number)

    with pytest.raises(Exhausted, match="fell 3 changes behind"):
        await anext(slow)
    await quick.aclose()  # type: ignore[attr-defined]  # as above


async def test_stopping_ends_every_watch_with_a_reason() -> None:
    """A stopping service must not wait for its watchers."""
    watchers = Watchers()
    stream = watchers.watch([])
    await anext(stream)
    await watchers.stop()

    with pytest.raises(Unavailable, match="stopping"):
        await anext(stream)


async def test_an_endpoint_is_found_by_each_of_its_names_and_by_none_once_removed() -> None:
    """One dictionary per name, kept together."""
    registry, one = Registry(), managed(3, Pod("default", "web", "u1"))
    registry.put(one)
    selectors = [
        Selector(id=3),
        Selector(attachment=one.endpoint.spec.attachment),
        Selector(address=ip_address("10.7.0.3")),
        Selector(pod=Pod("default", "web")),
        Selector(pod=Pod("default", "web", "u1")),
    ]
    assert all(registry.get(selector) is one for selector in selectors)
    assert registry.find(Selector(pod=Pod("default", "web", "u2"))) is None

    registry.remove(one)
    registry.remove(one)

    for selector in selectors:
        with pytest.raises(NotFound, match="there is no endpoint"):
            registry.get(selector)
    assert len(registry) == 0


async def test_a_second_endpoint_of_an_address_is_refused_by_name() -> None:
    """The first was there first."""
    registry = Registry()
    registry.put(managed(3))

    with pytest.raises(AlreadyExists, match=r"10\.7\.0\.3 belongs to endpoint 3 .*which is ready"):
        registry.put(managed(3))


async def test_a_pod_with_two_endpoints_is_not_guessed_at() -> None:
    """Two networks are two attachments."""
    registry = Registry()
    registry.put(managed(1, Pod("default", "web")))
    registry.put(managed(2, Pod("default", "web")))

    with pytest.raises(FailedPrecondition, match=r"has 2 endpoints \(1, 2\)"):
        registry.find(Selector(pod=Pod("default", "web")))


class Steps:
    """Steps that note what they do and fail where they are told to."""

    def __init__(self, fail: str = "", fail_undo: str = "") -> None:
        """Name the step that fails, and the undo that does."""
        self.done: list[str] = []
        self._fail, self._fail_undo = fail, fail_undo

    def step(self, name: str) -> Step:
        """Make a step."""

        async def do() -> None:
            self.done.append(name)
            if name == self._fail:
                raise Unavailable(f"{name} failed")

        async def undo() -> None:
            self.done.append(f"un-{name}")
            if name == self._fail_undo:
                raise Unavailable(f"un-{name} failed")

        return Step(name, do, undo)


async def test_a_failing_step_undoes_itself_and_what_was_before_it_last_first() -> None:
    """It may have come half-way."""
    steps = Steps(fail="c")
    with pytest.raises(Unavailable, match="c failed"):
        await run([steps.step(name) for name in "abcd"])

    assert steps.done == ["a", "b", "c", "un-c", "un-b", "un-a"]


async def test_an_undo_that_fails_keeps_what_came_before_it_and_the_first_error() -> None:
    """Above all the record, which must outlive what it names."""
    steps, stuck = Steps(fail="c", fail_undo="b"), []

    def tell(step: str, error: PodlaneError) -> None:
        stuck.append((step, error.message))

    with pytest.raises(Unavailable, match="c failed"):
        await run([steps.step(name) for name in "abc"], tell)

    assert steps.done == ["a", "b", "c", "un-c", "un-b"]
    assert stuck == [("b", "un-b failed")]


async def test_steps_that_succeed_undo_nothing() -> None:
    """The commit is the end."""
    steps = Steps()
    await run([steps.step(name) for name in "abc"])

    assert steps.done == ["a", "b", "c"]
