"""An endpoint's event queue."""

import asyncio
import contextvars
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import Exhausted, FailedPrecondition, Unavailable
from services.endpoint.events import Event, EventQueue, RegenerationEvent, Request
from services.endpoint.model import Level

REQUESTS = st.builds(
    Request,
    st.sampled_from([Level.NO_REBUILD, Level.REWRITE_LOAD]),
    st.sampled_from(["policy", "config", "periodic", "identity"]).map(lambda reason: (reason,)),
)


class Work:
    """Work that stands still until it is let go, and remembers what it did."""

    def __init__(self) -> None:
        """Begin shut."""
        self.gate = asyncio.Event()
        self.running = asyncio.Event()
        self.done: list[Any] = []

    async def __call__(self, event: Event) -> None:
        """Run as an event."""
        if isinstance(event, RegenerationEvent):
            self.done.append(event.begin())
        else:
            self.done.append(event.name)
        self.running.set()
        await self.gate.wait()


async def test_events_run_one_after_the_other_in_their_order() -> None:
    """First in, first out."""
    queue, work = EventQueue("endpoint 1", 25), Work()
    events = [Event(name, work) for name in "abc"]
    for event in events:
        queue.enqueue(event)
    await work.running.wait()
    assert work.done == ["a"]

    work.gate.set()
    await asyncio.gather(*(event.result() for event in events))

    assert work.done == ["a", "b", "c"]
    assert all(event.done and event.ran >= 0 and event.waited >= 0 for event in events)
    await queue.close("done")


async def test_the_error_of_an_event_is_its_result_and_the_queue_goes_on() -> None:
    """One bad build must not stop the next."""

    async def fail(_event: Event) -> None:
        raise Unavailable("no loader")

    queue, work = EventQueue("endpoint 1", 25), Work()
    work.gate.set()
    bad, good = Event("bad", fail), Event("good", work)
    queue.enqueue(bad)
    queue.enqueue(good)

    with pytest.raises(Unavailable, match="no loader"):
        await bad.result()
    await good.result()
    await queue.close("done")


async def test_a_full_queue_refuses_at_once_with_numbers() -> None:
    """Callers share one loop: nobody may be made to wait for one stuck endpoint."""
    queue, work = EventQueue("endpoint 7", 2), Work()
    queue.enqueue(Event("a", work))
    await work.running.wait()
    queue.enqueue(Event("b", work))
    queue.enqueue(Event("c", work))

    with pytest.raises(Exhausted, match="endpoint 7: 2 events wait already"):
        queue.enqueue(Event("d", work))

    work.gate.set()
    await queue.close("done")


async def test_closing_cancels_what_waits_tells_why_and_waits_for_what_runs() -> None:
    """Drained on delete."""
    queue, work = EventQueue("endpoint 7", 25), Work()
    running, waiting = Event("the first", work), Event("the second", work)
    queue.enqueue(running)
    queue.enqueue(waiting)
    await work.running.wait()

    closing = asyncio.create_task(queue.close("the endpoint is being deleted"))
    with pytest.raises(FailedPrecondition, match="the second was cancelled: the endpoint is being deleted"):
        await waiting.result()
    assert not closing.done()
    work.gate.set()
    await closing
    await running.result()

    assert work.done == ["the first"]
    with pytest.raises(FailedPrecondition, match="being deleted"):
        queue.enqueue(Event("late", work))
    await queue.close("again")


async def test_a_caller_that_hangs_up_cancels_nothing() -> None:
    """The result is there for others."""
    queue, work = EventQueue("endpoint 1", 25), Work()
    event = Event("a", work)
    queue.enqueue(event)
    waiter = asyncio.create_task(event.result())
    await work.running.wait()
    waiter.cancel()
    await asyncio.wait([waiter])

    work.gate.set()
    await event.result()

    await queue.close("done")


async def test_an_event_runs_in_the_context_of_who_enqueued_it() -> None:
    """So that its log lines carry the right request id."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody")
    seen = []

    async def look(_event: Event) -> None:
        seen.append(variable.get())

    queue = EventQueue("endpoint 1", 25)
    for value in ("first", "second"):
        variable.set(value)
        event = Event("look", look)
        queue.enqueue(event)
        await event.result()

    assert seen == ["first", "second"]
    await queue.close("done")


async def test_at_most_one_regeneration_runs_and_one_waits() -> None:
    """The third trigger finds the second and raises it."""
    queue, work = EventQueue("endpoint 1", 25), Work()
    first, folded = queue.trigger(Request(Level.NO_REBUILD, ("a",)), work)
    assert not folded
    await work.running.wait()
    second, folded = queue.trigger(Request(Level.NO_REBUILD, ("b",)), work)
    assert not folded
    third, folded = queue.trigger(Request(Level.REWRITE_LOAD, ("c",)), work)
    assert folded
    assert third is second
    assert second is not first

    work.gate.set()
    await second.result()

    assert work.done == [Request(Level.NO_REBUILD, ("a",)), Request(Level.REWRITE_LOAD, ("b", "c"))]
    await queue.close("done")


@given(st.lists(st.one_of(REQUESTS, st.none()), max_size=30))
def test_folding_never_loses_a_level_or_a_reason(steps: list[Request | None]) -> None:
    """Whatever the order of triggers and of builds that finish (None), each trigger is served by a build after it."""

    async def run() -> None:
        queue = EventQueue("endpoint 1", 25)
        steps_left = asyncio.Semaphore(0)
        built: list[Request] = []

        async def build(event: RegenerationEvent) -> None:
            built.append(event.begin())
            await steps_left.acquire()

        promised: list[tuple[RegenerationEvent, Request]] = []
        saved = 0
        for step in steps:
            if step is None:
                steps_left.release()
            else:
                triggered, folded = queue.trigger(step, build)
                promised.append((triggered, step))
                saved += folded
                assert len(queue) <= 1 + (not built)
            await asyncio.sleep(0)
        for _ in steps:
            steps_left.release()
        for event, request in promised:
            await event.result()
            assert event.request.level >= request.level
            assert set(request.reasons) <= set(event.request.reasons)
        assert len(built) == len({id(event) for event, _ in promised})
        assert saved == len(promised) - len(built)
        await queue.close("done")

    asyncio.run(run())


@given(REQUESTS, REQUESTS, REQUESTS)
def test_folding_is_associative_and_idempotent(a: Request, b: Request, c: Request) -> None:
    """So the order in which triggers meet does not matter."""
    assert a.folded(b).folded(c) == a.folded(b.folded(c))
    assert a.folded(a) == a


async def test_a_queue_shows_what_waits_what_runs_and_how_the_last_events_ended() -> None:
    """With the time that each waited and ran, so that a stuck endpoint says what it is stuck on."""
    queue, gate, begun = EventQueue("endpoint 1", 25), asyncio.Event(), asyncio.Event()

    async def stand(_event: Event) -> None:
        begun.set()
        await gate.wait()

    async def fail(_event: Event) -> None:
        raise Unavailable("not now")

    for event in (Event("standing", stand), Event("failing", fail), Event("cancelled", stand)):
        queue.enqueue(event)
    await begun.wait()
    status = queue.status()
    assert (status.running, status.waiting, status.ended) == ("standing", ("failing", "cancelled"), ())
    assert status.running_since > 0

    gate.set()
    closing = asyncio.create_task(queue.close("the endpoint is being deleted"))
    await closing

    status = queue.status()
    assert (status.running, status.waiting) == ("", ())
    ends = {ended.name: ended for ended in status.ended}
    assert ends["standing"].error == ""
    assert ends["standing"].ran > 0
    assert {name for name, ended in ends.items() if "cancelled: the endpoint is being deleted" in ended.error} == {
        "failing",
        "cancelled",
    }
    assert all(ended.waited > 0 for ended in status.ended)
