"""What a node tells of itself: one request id from the runtime's call to the programs, levels of logs, all metrics."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.agreement import until
from tests.node_support import SERVICES, Node, Pod, run
from tests.pages import metrics

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("sight")]


def scrape(node: Node, service: str) -> str:
    """Return a service's page of metrics."""
    socket = f"{node.dir}/run/{service}/metrics.sock"
    return run("curl", "-sS", "--unix-socket", socket, "http://podlane/metrics").stdout


def samples(node: Node, service: str) -> dict[tuple[str, ...], float]:
    """Return a service's metrics by name and label values in the order of their labels' names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(scrape(node, service))
        for sample in family.samples
    }


def lines(node: Node, service: str) -> list[dict[str, Any]]:
    """Return a service's log."""
    text = (node.dir / "run" / "log" / f"{service}.log").read_text()
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_one_request_id_leads_from_the_runtimes_call_to_the_programs(shared_node: Node):
    pod = shared_node.pod()
    shared_node.add(pod)

    request = f"cni-ADD-{pod.container_id[:12]}"
    calls = {
        service: {line["method"] for line in lines(shared_node, service) if line.get("request_id") == request}
        for service in SERVICES
    }
    assert calls == {
        "ipam": {"AllocateAddresses", "ConfirmAllocation"},
        "loader": {"CreateLink", "RegenerateEndpoint"},
        "endpoint": {"CreateEndpoint"},
    }
    (endpoint,) = (one for one in shared_node.show("endpoint", "list") if one["pod"]["name"] == pod.name)
    shown = shared_node.podlane("endpoint", "get", str(endpoint["id"])).stdout
    assert f"request {request}" in shown
    record = json.loads((shared_node.dir / "run" / "state" / str(endpoint["id"]) / "endpoint.json").read_text())
    assert record["request_id"] == request
    ids = {program["id"] for program in record["programs"]}
    assert all(f" id {id_} " in shown for id_ in ids)

    # Maps alone leave the programs whose they were; loading them anew is another request's.
    shared_node.podlane("endpoint", "regenerate", str(endpoint["id"]), "--level", "1")
    assert f"request {request}" in shared_node.podlane("endpoint", "get", str(endpoint["id"])).stdout
    shared_node.podlane("endpoint", "config", str(endpoint["id"]), "policy-accounting=on")
    (of_the_option,) = (
        line["request_id"] for line in lines(shared_node, "endpoint") if line.get("method") == "SetOptions"
    )
    assert f"request {of_the_option}" in shared_node.podlane("endpoint", "get", str(endpoint["id"])).stdout
    shared_node.delete(pod)


def test_pods_find_programs_that_were_verified_before(shared_node: Node):
    def count(name: str, *labels: str) -> float:
        return samples(shared_node, "loader")[name, *labels]

    wanted = shared_node.loaded.loader.spare_programs
    until(lambda: count("podlane_loader_spares") == wanted, lambda: scrape(shared_node, "loader"))
    before = count("podlane_loader_first_builds_total", "spare")
    pods = [shared_node.pod(), shared_node.pod()]
    addresses = [shared_node.add(pod).addresses for pod in pods]

    assert count("podlane_loader_first_builds_total", "spare") == before + len(pods)
    for pod, others in zip(pods, reversed(addresses), strict=True):
        assert all(pod.ping(address) for address in others)
    for pod in pods:
        shared_node.delete(pod)


def levels(node: Node) -> list[tuple[str, str, str]]:
    """Return what `podlane node log-level` says."""
    return [tuple(one.values()) for one in node.show("node", "log-level")]


def test_the_level_of_a_running_service_is_changed_and_changed_back(shared_node: Node):
    def debug_lines(service: str) -> int:
        return sum(line["level"] == "debug" for line in lines(shared_node, service))

    before = {service: debug_lines(service) for service in SERVICES}
    changed = shared_node.podlane("node", "log-level", "debug", "--service", "loader").stdout
    assert [line.split() for line in changed.splitlines()[1:]] == [["loader", "debug", "info"]]
    shared_node.show("endpoint", "list")
    shared_node.podlane("status")
    until(lambda: debug_lines("loader") > before["loader"], lambda: "the loader writes no debug lines")
    assert debug_lines("ipam") == before["ipam"]
    assert levels(shared_node) == [
        ("ipam", "info", "info"),
        ("loader", "debug", "info"),
        ("endpoint", "info", "info"),
    ]

    shared_node.podlane("node", "log-level", "info")
    now = debug_lines("loader")
    shared_node.podlane("node", "log-level")
    assert debug_lines("loader") == now

    refused = shared_node.podlane("node", "log-level", "loud", check=False)
    assert refused.returncode == 2
    assert "'loud' is not one of 'debug', 'info', 'warning', 'error'" in refused.stderr


def test_what_a_running_node_serves_is_on_the_page_and_promtool_finds_nothing(shared_node: Node):
    pod = shared_node.pod()
    shared_node.add(pod)
    known = {one.name: one for one in metrics.everything()}
    for service in SERVICES:
        page = scrape(shared_node, service)
        done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), service
        for family in text_string_to_metric_families(page):
            one = known[metrics.series_name(family.name, family.type)]
            assert service in one.services
            assert one.type == family.type
            for sample in family.samples:
                if not one.name.startswith("process_"):
                    assert set(sample.labels) - {"le"} == set(one.labels), sample
    shared_node.delete(pod)


def _more(node: Node, service: str, *series: str) -> Callable[[], float]:
    """Return what tells by how much a series has grown since now."""
    before = samples(node, service)[series]
    return lambda: samples(node, service)[series] - before


def _forge(pod: Pod, count: int) -> None:
    """Have a pod send packets from an address that isn't its own."""
    assert pod.ping("10.44.0.1")  # so that the first of them isn't an ARP
    pod.exec("ip", "address", "replace", "10.99.0.1/32", "dev", "lo")
    pod.exec("ping", "-c", str(count), "-i", "0.01", "-W", "0.1", "-I", "10.99.0.1", "10.44.0.1", check=False)


def test_drops_are_counted_by_reason_and_stay_counted_when_the_endpoint_goes(node: Node):
    pod = node.pod()
    node.add(pod)
    drops = _more(node, "loader", "podlane_drop_count_total", "egress", "invalid source ip")
    sizes = _more(node, "loader", "podlane_drop_bytes_total", "egress", "invalid source ip")
    _forge(pod, 5)
    assert (drops(), sizes()) == (5, 5 * 98)

    node.delete(pod)
    assert (drops(), sizes()) == (5, 5 * 98)
    other = node.pod()
    node.add(other)
    assert drops() == 5
    _forge(other, 2)
    assert drops() == 7

    # The kernel's counters outlive the loader: what was there at its start isn't counted again.
    node.kill("loader")
    node.launch("loader")
    until(lambda: node._serves("loader"), lambda: "the loader doesn't come back")
    assert samples(node, "loader")["podlane_drop_count_total", "egress", "invalid source ip"] == 0
    _forge(other, 1)
    assert samples(node, "loader")["podlane_drop_count_total", "egress", "invalid source ip"] == 1


def test_maps_regenerations_queues_and_policy_are_counted(shared_node: Node):
    pod = shared_node.pod()
    loads = _more(shared_node, "loader", "podlane_loader_regenerations_total", "2", "success")
    took = _more(shared_node, "loader", "podlane_loader_regeneration_duration_seconds_count", "2")
    entries = _more(shared_node, "loader", "podlane_bpf_map_entries", "podlane_endpoints")
    datapaths = _more(shared_node, "loader", "podlane_loader_endpoints")
    built = _more(shared_node, "endpoint", "podlane_endpoint_regenerations_total", "success")
    shared_node.add(pod)
    assert (loads(), took(), entries(), datapaths(), built()) == (1, 1, 2, 1, 1)

    changes = _more(shared_node, "endpoint", "podlane_policy_changes_total", "success")
    delays = _more(shared_node, "endpoint", "podlane_policy_implementation_delay_seconds_count")
    documents = _more(shared_node, "endpoint", "podlane_policy_documents", "networkpolicy")
    prefixes = _more(shared_node, "endpoint", "podlane_identity", "cidr")
    in_kernel = _more(shared_node, "loader", "podlane_bpf_map_entries", "podlane_prefixes")
    file = shared_node.dir / "p.yaml"
    file.write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: default}\n"
        "spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}]}]}\n"
    )
    shared_node.podlane("policy", "apply", "-f", str(file))
    assert (changes(), delays(), documents(), prefixes(), in_kernel()) == (1, 1, 1, 1, 1)
    shared_node.podlane("policy", "delete", "netpol/default/p")
    assert (changes(), documents(), prefixes(), in_kernel()) == (2, 0, 0, 0)

    now = samples(shared_node, "endpoint")
    assert now["podlane_endpoint_node_ready",] == 1
    assert (now["podlane_endpoint_queue_waiting",], now["podlane_endpoint_queue_longest",]) == (0, 0)
    assert now["podlane_endpoint_failing", "bpf"] == 0
    assert now["podlane_endpoint_restoration_duration_seconds",] > 0
    loader = samples(shared_node, "loader")
    assert loader["podlane_bpf_map_pressure", "podlane_endpoints"] == (
        loader["podlane_bpf_map_entries", "podlane_endpoints"] / loader["podlane_bpf_map_capacity", "podlane_endpoints"]
    )
    assert loader["podlane_loader_event_listeners",] == 1  # the endpoint service's history
    shared_node.delete(pod)
    assert (entries(), datapaths()) == (0, 0)
