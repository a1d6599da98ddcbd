"""docs/metrics.md: every metric of every service, with its type, its labels and what they can be.

Names, labels and meanings are the tables in the docstrings of the modules that count (`services/**/*metrics.py`);
names and types are asked of the services themselves, built as a node of a cluster has them, and not started. A test
holds both to be of the same metrics, another one holds the labels against what a running node serves.
"""

import importlib
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import grpc
from prometheus_client.parser import text_string_to_metric_families

from services.common import config, configfile
from services.common.controller_status import Result
from services.common.exporter import Exporter
from services.common.lifecycle import Component
from services.endpoint.main import build as build_endpoint
from services.endpoint.model import EndpointState
from services.endpoint.plan import Action
from services.ipam.claims import State as ClaimState
from services.ipam.main import build as build_ipam
from services.loader.main import build as build_loader
from services.loader.model import Direction
from services.loader.refusal import DropReason, reason_text
from tests.pages.parts import DOCS, REPOSITORY, prose, sentence, table

PAGE = DOCS / "metrics.md"
BUILDS: dict[str, Callable[[config.Settings], Sequence[Component]]] = {
    "ipam": build_ipam,
    "loader": build_loader,
    "endpoint": build_endpoint,
}

_LINE = re.compile(r"(?P<name>podlane_\w+)(?:\{(?P<labels>[\w,]+)\})?\s{2,}(?P<text>\S.*)")
_UNITS = {"seconds": "seconds", "bytes": "bytes", "pressure": "0 to 1"}


def _values(*values: object) -> str:
    return ", ".join(f"`{value}`" for value in values)


# What a label can be: of one metric, or of whichever else has it.
LABELS: dict[str | tuple[str, str], str] = {
    "version": "podlane's",
    "method": "an RPC's name, as `CreateEndpoint`",
    "code": f"a gRPC status: {_values(*(code.name for code in grpc.StatusCode))}",
    "group": "a controller's group, as `podlane controllers get` shows it",
    "pool": "a pool's name",
    "family": _values("IPv4", "IPv6"),
    "range": "a range of a pool, as `10.244.0.0/24`",
    "map_name": "a map's name, as `podlane_endpoints`",
    "reason": _values(*(reason_text(reason) for reason in DropReason)),
    "direction": f"{_values(*(way.name.lower() for way in Direction))}, seen from the pod",
    "programs": "`spare`: they were verified before, `verified`: then",
    "phase": "a phase's name; there are some forty",
    "verb": "a request's kind, as `range` or `commit`",
    "level": "`1`: maps alone, `2`: programs loaded",
    "part": _values("bpf", "policy", "connected"),
    "action": _values(*(action.name.lower() for action in Action)),
    "kind": _values("networkpolicy", "pod", "namespace"),
    "type": _values("labels", "provisional", "cidr"),
    "origin": _values("compiled", "found"),
    "how": _values("carried_out", "dropped"),
    ("podlane_endpoint_state", "state"): _values(*EndpointState),
    ("podlane_ipam_addresses", "state"): _values("confirmed", "reserved", "cooling", "free"),
    ("podlane_ipam_claims", "state"): _values(*ClaimState),
    ("podlane_deletion_journal_entries", "state"): _values("waiting", "failing", "unreadable"),
    ("podlane_controllers_runs_total", "outcome"): _values(*(result.name.lower() for result in Result)),
    ("podlane_kvstore_requests_total", "outcome"): _values("ok", "unavailable", "refused", "invalid"),
    ("podlane_endpoint_regenerations_total", "outcome"): _values("success", "failure", "folded"),
    "outcome": _values("success", "failure"),
    ("podlane_loader_events_lost_total", "why"): _values("credit", "slow_reader"),
    ("podlane_endpoint_creations_unmade_total", "why"): _values("refused", "withdrawn"),
}


_ABOVE = """
What the three services serve at `/metrics`, each on a socket of its own (`<run_dir>/<service>/metrics.sock`) or, with
`metrics_listen = "127.0.0.1:9961"`, on a port. Written by `make docs` from the services themselves; a test fails when
it isn't. [deploy/monitoring](../deploy/monitoring) has a scrape configuration, alerts and a dashboard for them.
"""
_EXAMPLE = ("```sh", "curl --unix-socket /run/podlane/loader/metrics.sock http://podlane/metrics", "```")
_BELOW = """
A histogram `x` is served as `x_bucket`, `x_sum` and `x_count`, a summary without its buckets. Which service and which
node a series is of is told by Prometheus' own labels, `job` and `instance`. Counters begin at zero with their
process. Labels have few values: never an endpoint's id, nor a pod's name; of one pod `podlane endpoint get` tells.
"""


@dataclass(frozen=True, slots=True)
class Documented:
    """One metric as its module's docstring has it; `services` are those that serve it, `type` is Prometheus' word."""

    name: str
    labels: tuple[str, ...]
    text: str
    services: tuple[str, ...] = ()
    type: str = ""


def described(module: ModuleType) -> Iterator[Documented]:
    """Return the metrics in a module's docstring: lines that begin with a name; deeper ones go on with its meaning."""
    found: Documented | None = None
    for line in (module.__doc__ or "").splitlines():
        match = _LINE.fullmatch(line.strip())
        if match is not None:
            if found is not None:
                yield found
            found = Documented(match["name"], tuple(filter(None, (match["labels"] or "").split(","))), match["text"])
        elif found is not None and line.startswith(" " * 20):
            found = replace(found, text=f"{found.text} {line.strip()}")
        elif found is not None:
            yield found
            found = None
    if found is not None:
        yield found


def documented() -> dict[str, Documented]:
    """Return all metrics of podlane's own that docstrings know, by name."""
    paths = sorted(path.relative_to(REPOSITORY) for path in (REPOSITORY / "services").rglob("*metrics.py"))
    modules = [importlib.import_module(".".join(path.with_suffix("").parts)) for path in paths]
    return {one.name: one for module in modules for one in described(module)}


def pages() -> dict[str, str]:
    """Return what each service of a cluster's node serves, before it has been started."""
    with tempfile.TemporaryDirectory(prefix="podlane-pages-") as scratch:
        root = Path(scratch)
        (root / "state").mkdir()
        settings = configfile.load(_settings(root), {})
        return {name: _scrape(build(settings)) for name, build in BUILDS.items()}


def _settings(root: Path) -> Path:
    file = root / "podlane.toml"
    file.write_text(
        f'[node]\nname = "n"\nrun_dir = "{root}"\nlib_dir = "{root}"\nbpffs = "{root}"\n'
        '[kvstore]\nendpoints = ["http://127.0.0.1:1"]\n'
        '[[ipam.pools]]\nname = "default"\ncluster_ranges = ["10.0.0.0/16"]\n'
    )
    return file


def _scrape(components: Sequence[Component]) -> str:
    (exporter,) = (one for one in components if isinstance(one, Exporter))
    head, _, page = exporter.answer(b"GET /metrics HTTP/1.1\r\n\r\n").decode().partition("\r\n\r\n")
    if not head.startswith("HTTP/1.1 200"):
        raise AssertionError(head)
    return page


def series_name(family: str, kind: str) -> str:
    """Return how a family is called in a query: counters have a suffix there."""
    return f"{family}_total" if kind == "counter" else family


def served() -> dict[str, Documented]:
    """Return all metrics that the services serve, by name, without labels; the text is what a scrape says of them."""
    found: dict[str, Documented] = {}
    for service, page in pages().items():
        for family in text_string_to_metric_families(page):
            name = series_name(family.name, family.type)
            before = found.get(name, Documented(name, (), family.documentation, type=family.type))
            found[name] = replace(before, services=(*before.services, service))
    return found


def everything() -> list[Documented]:
    """Return all metrics by name: what a scrape says of them, and of podlane's own what docstrings add."""
    own = documented()
    return [
        replace(one, labels=own[name].labels, text=f"{one.text} {sentence(own[name].text)}") if name in own else one
        for name, one in sorted(served().items())
    ]


def _unit(one: Documented) -> str:
    words = one.name.removesuffix("_total").split("_")
    return _UNITS.get(words[-1], "")


def _labels(one: Documented) -> str:
    values = ((label, LABELS.get((one.name, label)) or LABELS[label]) for label in one.labels)
    return "<br>".join(f"`{label}`: {value}" for label, value in values)


def page() -> str:
    """Return docs/metrics.md."""
    every = everything()
    sections: list[tuple[str, Callable[[Documented], bool]]] = [
        ("Of every service", lambda one: len(one.services) == len(BUILDS)),
        ("Of whoever speaks to etcd", lambda one: one.name.startswith("podlane_kvstore")),
        ("podlane-ipam", lambda one: one.services == ("ipam",)),
        ("podlane-loader", lambda one: one.services == ("loader",)),
        ("podlane-endpoint", lambda one: one.services == ("endpoint",)),
    ]
    lines = ["# Metrics", "", *prose(_ABOVE), "", *_EXAMPLE, "", *prose(_BELOW)]
    for title, belongs in sections:
        mine = [one for one in every if belongs(one)]
        every = [one for one in every if one not in mine]
        rows = [(f"`{one.name}`", one.type, _unit(one), sentence(one.text), _labels(one)) for one in mine]
        lines += ["", f"## {title}", "", *table(("name", "type", "unit", "meaning", "labels"), rows)]
    if every:
        raise AssertionError(f"no section has {[one.name for one in every]}")
    return "\n".join([*lines, ""])
