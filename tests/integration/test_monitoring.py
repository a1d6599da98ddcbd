"""deploy/monitoring: promtool takes all of it, and it speaks of nothing that isn't served."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pages import metrics
from tests.pages.parts import REPOSITORY

MONITORING = REPOSITORY / "deploy" / "monitoring"
RULES = MONITORING / "podlane.rules.yml"
DASHBOARD = MONITORING / "grafana-dashboard.json"
# Made by Prometheus itself.
ITS_OWN = {"up", "ALERTS"}


def promtool(*argv: str) -> None:
    """Run it; a failure shows what it said."""
    done = subprocess.run(["promtool", *argv], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def alerts() -> list[dict[str, Any]]:
    """Return all alerts."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard that show something."""
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def queries() -> list[str]:
    """Return every query of rules and dashboard."""
    return [rule["expr"] for rule in alerts()] + [query["expr"] for panel in panels() for query in panel["targets"]]


def names(query: str) -> set[str]:
    """Return the metrics that a query asks for, as docs/metrics.md has them."""
    bare = re.sub(r'"[^"]*"', "", query)
    found = set(re.findall(r"\b(?:podlane|process)_\w+|\bup\b|\bALERTS\b", bare))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


def labels(query: str) -> set[str]:
    """Return the labels that a query selects or groups by."""
    selected = re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', query)
    grouped = re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", query)
    return {*selected, *(label.strip() for group in grouped for label in group.split(","))}


def test_promtool_takes_the_configuration_and_the_rules():
    promtool("check", "config", str(MONITORING / "prometheus.yml"))
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))


def test_each_alert_fires_when_it_should_and_not_when_it_should_not():
    promtool("test", "rules", str(MONITORING / "podlane.rules.test.yml"))

    tested = (MONITORING / "podlane.rules.test.yml").read_text()
    assert [rule["alert"] for rule in alerts() if f'alertname="{rule["alert"]}"' not in tested] == []


def test_each_alert_says_what_to_do_and_names_pages_that_there_are():
    for rule in alerts():
        said = rule["annotations"]
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert len(said["summary"]) > 20
        assert len(said["description"]) > 60
        assert all((REPOSITORY / page).is_file() for page in said["docs"].split(", ")), rule["alert"]


def test_everything_that_is_asked_for_is_on_the_page_of_metrics():
    known = {one.name: one for one in metrics.everything()}
    asked = {name for query in queries() for name in names(query)}

    assert asked - known.keys() == ITS_OWN
    usual = {"job", "instance", "le", "alertname", "alertstate"}
    for query in queries():
        theirs = {label for name in names(query) - ITS_OWN for label in known[name].labels}
        assert labels(query) - usual - theirs == set(), query


def test_names_are_found_in_a_query():
    query = 'sum by (le) (rate(podlane_x_seconds_bucket{a="podlane_no"}[5m])) / up > process_y_total'
    assert names(query) == {"podlane_x_seconds", "up", "process_y_total"}
    assert labels(query) == {"le", "a"}


def test_the_dashboard_is_one_that_grafana_shows():
    dashboard = json.loads(DASHBOARD.read_text())
    everything = dashboard["panels"]

    assert (dashboard["uid"], dashboard["title"]) == ("podlane", "podlane")
    assert len({panel["id"] for panel in everything}) == len(everything)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)\}?", " ".join(map(json.dumps, everything))))
    assert used - {"__rate_interval"} <= variables
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in panels():
        assert panel["type"] in {"stat", "timeseries"}
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({query["refId"] for query in panel["targets"]}) == len(panel["targets"]) > 0


@pytest.fixture
def dashboard_rules(tmp_path: Path) -> Path:
    """The dashboard's queries as rules, which promtool can read."""
    queries_ = [query["expr"] for panel in panels() for query in panel["targets"]]
    filled = [query.replace("$__rate_interval", "5m").replace("$instance", ".*") for query in queries_]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(filled)]
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    return file


def test_promtool_takes_the_queries_of_the_dashboard(dashboard_rules: Path):
    promtool("check", "rules", str(dashboard_rules))
