"""The node's own identities."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.common.errors import Exhausted, Internal, InvalidArgument
from services.endpoint.policy.identity import SMALLEST, LocalIdentities, Reserved
from services.endpoint.policy.labels import Labels

GRACE = 10.0
LARGEST = SMALLEST + 5


def labels(name: str) -> Labels:
    """Return a set of labels."""
    return Labels({"k8s:app": name})


class IdentitiesMachine(RuleBasedStateMachine):
    """Pods come and go, time passes, the service restarts."""

    def __init__(self) -> None:
        """Start with none."""
        super().__init__()
        self.identities = LocalIdentities(GRACE, largest=LARGEST)
        self.now = 0.0
        self.uses: dict[Labels, int] = {}
        self.numbers: dict[Labels, int] = {}
        self.last = 0

    @rule(name=st.sampled_from("abcdefgh"))
    def acquire(self, name: str) -> None:
        """The same labels have the same number for as long as anybody remembers it."""
        of = labels(name)
        if of not in self.numbers and len(self.numbers) == LARGEST - SMALLEST + 1:
            with pytest.raises(
                Exhausted, match=r"all 6 identities are taken, \d in use and \d released less than 10 s"
            ):
                self.identities.acquire(of)
            return
        number = self.identities.acquire(of)
        assert SMALLEST <= number <= LARGEST
        assert self.numbers.setdefault(of, number) == number
        self.uses[of] = self.uses.get(of, 0) + 1
        self.last = number

    @rule(data=st.data())
    @precondition(lambda self: any(self.uses.values()))
    def release(self, data: st.DataObject) -> None:
        """A pod goes."""
        of = data.draw(st.sampled_from(sorted((one for one, uses in self.uses.items() if uses), key=str)))
        self.uses[of] -= 1
        self.identities.release(self.numbers[of], self.now)

    @rule(seconds=st.sampled_from((1.0, 4.0, GRACE)))
    def wait(self, seconds: float) -> None:
        """What nobody uses is forgotten after the grace time, not before."""
        self.now += seconds
        due = self.identities.next_expiry()
        expired = self.identities.expire(self.now)
        assert bool(expired) == (due is not None and due <= self.now)
        for number, of in expired.items():
            assert self.numbers.pop(of) == number
            assert not self.uses.pop(of)

    @rule()
    def restart(self) -> None:
        """What endpoints' records have is enough to go on."""
        self.identities = LocalIdentities(GRACE, self.last, largest=LARGEST)
        self.uses = {of: uses for of, uses in self.uses.items() if uses}
        self.numbers = {of: self.numbers[of] for of in self.uses}
        for of, uses in self.uses.items():
            for _ in range(uses):
                self.identities.restore(self.numbers[of], of)

    @invariant()
    def numbers_and_labels_belong_together(self) -> None:
        """As the record says."""
        assert self.identities.known() == {number: of for of, number in self.numbers.items()}
        assert all(self.identities.uses(number) == self.uses[of] for of, number in self.numbers.items())


TestIdentities = IdentitiesMachine.TestCase


def test_a_number_comes_back_for_other_labels_only_after_all_others_had_their_turn() -> None:
    identities = LocalIdentities(grace=0, largest=SMALLEST + 2)
    first = identities.acquire(labels("a"))
    identities.release(first, 1.0)
    assert identities.expire(1.0) == {first: labels("a")}

    assert [identities.acquire(labels(name)) - first for name in "bcd"] == [1, 2, 0]


def test_a_released_number_is_not_given_away_within_its_grace() -> None:
    identities = LocalIdentities(grace=10, largest=SMALLEST + 1)
    first = identities.acquire(labels("a"))
    identities.release(first, 0.0)

    assert identities.expire(9.9) == {}
    assert identities.acquire(labels("b")) != first
    assert identities.acquire(labels("a")) == first
    assert identities.next_expiry() is None


def test_without_labels_there_is_no_identity_to_give() -> None:
    with pytest.raises(InvalidArgument, match="reserved:init"):
        LocalIdentities(0).acquire(Labels({}))


def test_records_that_do_not_agree_are_refused() -> None:
    identities = LocalIdentities(0)
    identities.restore(300, labels("a"))

    with pytest.raises(Internal, match="300 is recorded for two sets of labels"):
        identities.restore(300, labels("b"))
    with pytest.raises(Internal, match="recorded with two identities, 300 and 301"):
        identities.restore(301, labels("a"))
    with pytest.raises(Internal, match=r"identity 5 .* is not in 256-65535"):
        identities.restore(5, labels("c"))
    assert identities.known() == {300: labels("a")}


def test_a_release_too_many_is_a_bug_and_says_so() -> None:
    identities = LocalIdentities(0)
    number = identities.acquire(labels("a"))
    identities.release(number, 0.0)

    with pytest.raises(Internal, match="released more often than it was acquired"):
        identities.release(number, 0.0)


def test_reserved_identities_have_ciliums_names_and_numbers() -> None:
    assert {int(one): str(one) for one in Reserved} == {
        0: "reserved:unknown",
        1: "reserved:host",
        2: "reserved:world",
        3: "reserved:unmanaged",
        4: "reserved:health",
        5: "reserved:init",
        6: "reserved:remote-node",
        7: "reserved:kube-apiserver",
        8: "reserved:ingress",
        9: "reserved:world-ipv4",
        10: "reserved:world-ipv6",
        11: "reserved:encrypted-overlay",
    }
    assert Reserved.HOST.labels.canonical == "reserved:host=;"
