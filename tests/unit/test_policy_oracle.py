"""The resolver and a model of the datapath give the answers of the oracle, for whole truth tables."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.examples import examples
from tests.policy_model import Cluster
from tests.policy_oracle import World, probes, truth_table
from tests.policy_strategies import OUTSIDE, PORTS, worlds

pytestmark = pytest.mark.long


@settings(max_examples=examples(70), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_every_connection_gets_the_answer_that_the_documentation_gives(world: World) -> None:
    cluster = Cluster(world)

    expected = truth_table(world, probes(world, OUTSIDE, PORTS))

    assert {probe: cluster.allowed(probe) for probe in expected} == expected
