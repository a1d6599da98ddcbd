"""How `podlane endpoint list` shows who waits for its turn to be created."""

import pytest
from podlane.endpoint.v1 import endpoint_pb2 as pb

from cli.endpoint_list import state


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        (None, "waiting-to-regenerate"),
        (pb.Place(position=12, waiting=190), "waiting-to-regenerate 12/190"),
        (pb.Place(position=12, waiting=190, estimate_us=3_440_000), "waiting-to-regenerate 12/190 ~3.4s"),
        (pb.Place(position=1, waiting=1, estimate_us=0), "waiting-to-regenerate 1/1 ~0.0s"),
    ],
    ids=["has had its turn", "nothing is known yet", "expected", "at once"],
)
def test_a_place_stands_behind_the_state(place: pb.Place | None, shown: str) -> None:
    """And an estimate that is known behind it."""
    assert state(pb.Endpoint(state=pb.ENDPOINT_STATE_WAITING_TO_REGENERATE, place=place)) == shown
