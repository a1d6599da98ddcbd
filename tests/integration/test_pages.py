"""Pages that are made from the sources are up to date and leave nothing out; the sample of the settings is one."""

import dataclasses
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from services.common import configfile, edge
from tests.pages import errors, metrics, settings
from tests.pages.parts import REPOSITORY

SAMPLE = REPOSITORY / "deploy" / "podlane.toml"
# What the sample shows by an example, because the default is nothing or is found out.
EXAMPLES = {
    "ipam.metrics_listen",
    "loader.metrics_listen",
    "endpoint.metrics_listen",
    "ipam.pools.name",
    "ipam.pools.ranges",
    "ipam.pools.exclude",
    "ipam.pools.delegated",
    "ipam.pools.cluster_ranges",
    "telemetry.otlp_endpoint",
    "kvstore.endpoints",
    "kvstore.ca",
    "cluster.underlay_device",
    "cluster.cidrs",
}


@pytest.mark.parametrize("page", [errors, metrics, settings], ids=lambda page: page.PAGE.name)
def test_the_page_is_up_to_date(page: Any):
    assert page.PAGE.read_text() == page.page(), "run: make docs"


def test_every_metric_is_served_and_described():
    served = {name for name in metrics.served() if name.startswith("podlane_")}

    assert served == metrics.documented().keys()


def test_a_line_that_begins_with_a_name_describes_it_and_deeper_ones_go_on():
    module = ModuleType("m")
    module.__doc__ = """What it counts.

    podlane_x_total{a,b}      first words,
                              and more
podlane_y                     the other
Not of podlane_z              anything
"""

    first, second = metrics.described(module)

    assert (first.name, first.labels, first.text) == ("podlane_x_total", ("a", "b"), "first words, and more")
    assert (second.name, second.labels, second.text) == ("podlane_y", (), "the other")


def test_every_setting_is_described():
    assert settings.undocumented() == []


def test_every_kind_of_error_has_a_code_and_advice():
    assert set(errors.classes()) == edge.CODES.keys() == errors.ADVICE.keys()


def _all_of_the_sample(directory: Path) -> dict[str, Any]:
    """Return every key of the sample with its value, by section, those that are commented out, too."""
    text = re.sub(r"(?m)^# (?=\[|[a-z_0-9]+ = )", "", SAMPLE.read_text())
    file = directory / "podlane.toml"
    file.write_text(text)
    configfile.load(file, {})  # refuses what isn't a setting
    values: dict[str, Any] = {}
    for section, table in tomllib.loads(text).items():
        pools = table.pop("pools", [])
        values.update({f"{section}.{key}": value for key, value in table.items()})
        values.update({f"{section}.pools.{key}": value for pool in pools for key, value in pool.items()})
    return values


def test_the_sample_has_settings_only_and_their_defaults(tmp_path: Path):
    values = _all_of_the_sample(tmp_path)

    known = {
        f"{section}.{field.name}": field.default
        for section, kind in settings.sections().items()
        for field in dataclasses.fields(kind)
    }
    assert len(values) > 20
    assert EXAMPLES <= values.keys() <= known.keys()
    for key in values.keys() - EXAMPLES:
        default = known[key]
        assert values[key] == (str(default) if isinstance(default, Path) else default), key
