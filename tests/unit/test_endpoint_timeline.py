"""How a creation's phases are put together, what is usual, and the spans that are made of them."""

import json
import statistics

from hypothesis import given
from hypothesis import strategies as st

from services.common.model import Attachment, Phase, Pod
from services.endpoint import tracing
from services.endpoint.model import Endpoint, EndpointSpec, EndpointState, Link
from services.endpoint.timeline import BESIDE, ENDPOINT, IPAM, LOADER, PHASES, SHIM, Before, Recorder, Timeline
from services.endpoint.usual import REMEMBERED, Memory, slowest

BEGAN = 5_000_000
RUNTIMES = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TOLD = Before(
    began_us=BEGAN,
    steps=(
        Phase("start", 9000, BEGAN),
        Phase("configuration", 400, BEGAN + 9000),
        Phase("addresses", 2000, BEGAN + 9500),
        Phase("link", 3000, BEGAN + 11600),
    ),
    ipam=(Phase("choose", 100, BEGAN + 10000), Phase("store", 500, BEGAN + 10200)),
    link=(Phase("netns", 700, BEGAN + 12000), Phase("from a newer loader", 7, BEGAN + 12800)),
)
RECEIVED = BEGAN + 15000


class Clock:
    """One that is set; nanoseconds."""

    def __init__(self, us: int) -> None:
        self.us = us

    def __call__(self) -> int:
        return self.us * 1000


def recorded(before: Before = TOLD) -> Timeline:
    clock = Clock(RECEIVED)
    watch = Recorder(before, request_id="cni-ADD-1", about="podlane/c1/eth0", clock=clock)
    watch.phases += [
        Phase("node", 50, RECEIVED + 10),
        Phase("identity", 200, RECEIVED + 70),
        Phase("record", 900, RECEIVED + 300),
        Phase("datapath", 7000, RECEIVED + 1300),
        Phase("confirm", 1500, RECEIVED + 1250),
    ]
    watch.built(
        [
            Phase("regenerate", 6990, RECEIVED + 1301),
            Phase("regenerate:load", 5000, RECEIVED + 1500),
            Phase("regenerate:verify", 4000, RECEIVED + 1500),
            Phase("regenerate:verify", 500, RECEIVED + 5600),
        ]
    )
    clock.us = RECEIVED + 8500
    return watch.timeline(1000.0)


def endpoint() -> Endpoint:
    attachment = Attachment("podlane", "c1", "eth0")
    link = Link(attachment, "lxc1", 3, bytes(6), bytes(6))
    spec = EndpointSpec(attachment, Pod("shop", "web-0", "u1"), link, ())
    return Endpoint(7, 1, spec, 1000.0, EndpointState.READY, identity=256)


def test_what_the_plugin_ipam_the_loader_and_the_service_measured_is_one_line_of_time():
    timeline = recorded()

    spans = {span.name: (span.offset_us, span.duration_us) for span in timeline.spans}
    assert spans["start"] == (0, 9000)
    assert spans["addresses/store"] == (10200, 500)
    assert spans["link/netns"] == (12000, 700)
    assert spans["handover"] == (14600, 400)
    assert spans["datapath/load"] == (16500, 5000)
    assert (timeline.total_us, timeline.began) == (23500, 1000.0 - 0.0235)
    assert set(spans) <= set(PHASES)
    assert [span.offset_us for span in timeline.spans] == sorted(span.offset_us for span in timeline.spans)
    # A load that was repeated.
    assert timeline.durations()["datapath/load/verify"] == 4500


def test_the_phases_that_follow_each_other_are_at_most_the_total():
    timeline = recorded()

    whole = [name for name in timeline.durations() if "/" not in name and name not in BESIDE]
    assert "confirm" in timeline.durations()
    assert sum(timeline.durations()[name] for name in whole) <= timeline.total_us


def test_a_plugin_that_tells_nothing_is_as_good():
    timeline = recorded(Before())

    assert [span.name for span in timeline.spans][:2] == ["node", "identity"]
    assert (timeline.total_us, timeline.spans[0].offset_us) == (8500, 10)


LIES = {
    "began after the call": Before(RECEIVED + 1, (Phase("start", 1, RECEIVED + 1),)),
    "began hours ago": Before(RECEIVED - 4000 * 10**6, ()),
    "a step before the beginning": Before(BEGAN, (Phase("start", 1, BEGAN - 1),)),
    "a step that lasts beyond the call": Before(BEGAN, (Phase("link", RECEIVED, BEGAN),)),
    "a step of negative length": Before(BEGAN, (Phase("configuration", -5, BEGAN),)),
    "a part in the future": Before(BEGAN, (Phase("start", 1, BEGAN),), ipam=(Phase("store", 1, RECEIVED),)),
    "more than anybody needs": Before(BEGAN, (), link=(Phase("netns", 1, BEGAN),) * 65),
}


def test_what_cannot_be_true_is_left_out_as_a_whole_and_the_trace_stays():
    for lie, before in LIES.items():
        kept = Before(before.began_us, before.steps, before.ipam, before.link, RUNTIMES).within(RECEIVED)
        assert kept == Before(traceparent=RUNTIMES), lie
    assert TOLD.within(RECEIVED) == TOLD


times = st.integers(BEGAN - 5, RECEIVED + 5) | st.integers(0, 20) | st.integers(-(2**40), 2**64)
told = st.lists(st.builds(Phase, st.sampled_from(["start", "link", "netns", "store"]), times, times)).map(tuple)


@given(st.builds(Before, times, told, told, told))
def test_whatever_a_plugin_says_the_line_of_time_stays_within_its_bounds(before: Before):
    timeline = recorded(before)

    assert 0 <= timeline.total_us <= 3600 * 10**6 + 8500
    for span in timeline.spans:
        assert span.offset_us >= 0
        assert span.duration_us >= 0
        assert span.offset_us + span.duration_us <= timeline.total_us


def test_a_timeline_survives_being_written_down():
    timeline = recorded().published(70)

    assert Timeline.read(json.loads(json.dumps(timeline.written()))) == timeline
    assert timeline.spans[-1].offset_us == timeline.total_us


@given(st.lists(st.integers(0, 2**33), min_size=1, max_size=2 * REMEMBERED + 100))
def test_what_is_usual_is_of_the_last_creations(totals: list[int]):
    memory = Memory()
    for total in totals:
        memory.learn(Timeline(0.0, total, ()))

    (usual,) = memory.usual()
    last = [min(total, 2**32 - 1) for total in totals[-REMEMBERED:]]
    assert (usual.name, usual.count) == ("total", len(last))
    assert usual.median_us == statistics.median_high(last)
    assert sum(one <= usual.p99_us for one in last) >= 0.99 * len(last)


def test_usual_phases_come_in_their_own_order_and_publish_joins_later():
    memory = Memory()
    memory.learn(recorded())
    memory.learn_phase("publish", 70)

    names = [usual.name for usual in memory.usual()]
    assert names == ["total", *(name for name in PHASES if name in names)]
    assert names[-1] == "publish"


def test_the_slowest_come_first_and_no_more_than_asked_for():
    timelines = {id_: Timeline(0.0, total, ()) for id_, total in ((1, 5), (2, 9), (3, 9), (4, 1))}

    assert slowest(timelines, 3) == [2, 3, 1]


def test_spans_are_a_tree_across_four_services():
    spans = list(tracing.spans(endpoint(), recorded()))

    by_id = {span.id: span for span in spans}
    assert len(by_id) == len(spans)

    def path(span: tracing.TraceSpan) -> str:
        above = by_id.get(span.parent)
        return f"{path(above)} > {span.name}" if above is not None else span.name

    found = {path(span): span.service for span in spans}
    assert found["CNI ADD"] == SHIM
    assert found["CNI ADD > AllocateAddresses"] == SHIM
    assert found["CNI ADD > AllocateAddresses > store"] == IPAM
    assert found["CNI ADD > CreateLink > netns"] == LOADER
    assert found["CNI ADD > CreateEndpoint > identity"] == ENDPOINT
    assert found["CNI ADD > CreateEndpoint > datapath > load > verify"] == LOADER
    assert len({span.trace for span in spans}) == 1
    assert [span.parent for span in spans if span.name == "CNI ADD"] == [0]
    for span in spans:
        above = by_id.get(span.parent)
        assert above is None or above.start <= span.start <= span.end <= above.end, span
    (create,) = [span for span in spans if span.name == "CreateEndpoint"]
    assert (create.attributes["k8s.pod.name"], create.attributes["podlane.endpoint"]) == ("web-0", 7)


def test_the_runtimes_trace_goes_on_and_others_differ_from_each_other():
    ours = recorded(Before(TOLD.began_us, TOLD.steps, traceparent=RUNTIMES))
    root = next(tracing.spans(endpoint(), ours))

    assert (f"{root.trace:032x}", f"{root.parent:016x}") == tuple(RUNTIMES.split("-")[1:3])
    assert recorded().trace_id == recorded().trace_id != recorded(Before()).trace_id
    for nonsense in ("", "00-xyz", RUNTIMES.upper(), RUNTIMES + "0", f"00-{'0' * 32}-{'1' * 16}-01"):
        made = recorded(Before(TOLD.began_us, TOLD.steps, traceparent=nonsense))
        assert (made.trace_id, made.parent_id) == (recorded().trace_id, "")


def test_a_publication_that_comes_later_hangs_where_it_belongs():
    before = list(tracing.spans(endpoint(), recorded()))
    (publish,) = tracing.spans(endpoint(), recorded().only_published(70))

    (create,) = [span for span in before if span.name == "CreateEndpoint"]
    assert (publish.name, publish.parent, publish.start) == ("publish", create.id, create.end)


def test_a_failure_is_told_at_the_root_and_at_the_call():
    spans = list(tracing.spans(endpoint(), recorded(), "the verifier refuses"))

    assert {span.name for span in spans if span.error} == {"CNI ADD", "CreateEndpoint"}
