"""The book of a cluster's identities, held against what a store may say in any order."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.common.errors import Exhausted, Internal
from services.endpoint.cluster.identitybook import IdentityBook, Told
from services.endpoint.policy.identity import LARGEST, LOCAL_SCOPE, SMALLEST
from services.endpoint.policy.labels import Labels

GRACE = 10.0
SETS = [Labels({"k8s:app": name}) for name in "abcd"]
NUMBERS = [256, 257, 258]


def tell(resolver: dict[int, Labels], told: list[Told]) -> None:
    """Do what a resolver does, which refuses what it can't bear."""
    for step in told:
        for number, labels in step.items():
            if labels is None:
                del resolver[number]
            else:
                assert resolver.setdefault(number, labels) == labels


class Book(RuleBasedStateMachine):
    """A store says anything; endpoints use what the book gives them. `resolver` is who is told."""

    def __init__(self) -> None:
        super().__init__()
        self.book = IdentityBook(GRACE)
        self.resolver: dict[int, Labels] = {}
        self.used: Counter[int] = Counter()
        self.meant: dict[int, Labels] = {}
        self.store: dict[int, Labels] = {}
        self.now, self.revision = 0.0, 1

    @rule(number=st.sampled_from(NUMBERS), labels=st.sampled_from([*SETS, None]))
    def says(self, number: int, labels: Labels | None) -> None:
        self.revision += 1
        if labels is None:
            self.store.pop(number, None)
        else:
            self.store[number] = labels
        tell(self.resolver, self.book.seen(number, labels, self.revision, self.now))

    @rule(labels=st.sampled_from(SETS))
    def uses(self, labels: Labels) -> None:
        number = self.book.find(labels)
        if number is None:
            number = self.book.use_local(labels)
        else:
            self.book.use(number)
        self.resolver.setdefault(number, labels)  # whoever puts an endpoint under it says so first
        assert self.resolver[number] == labels
        self.used[number] += 1
        self.meant[number] = labels

    @precondition(lambda self: +self.used)
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(+self.used)))
        self.used[number] -= 1
        tell(self.resolver, self.book.unuse(number, self.now))

    @rule(seconds=st.sampled_from([1.0, GRACE]))
    def passes(self, seconds: float) -> None:
        self.now += seconds
        tell(self.resolver, [self.book.expire(self.now)])

    @invariant()
    def who_is_used_is_known(self) -> None:
        for number in +self.used:
            assert self.resolver[number] == self.meant[number] == self.book.known()[number]
            assert self.book.uses(number) == self.used[number]

    @invariant()
    def what_is_told_is_what_is_known(self) -> None:
        assert self.resolver == self.book.known()

    @invariant()
    def no_conflict_is_given_out_or_referred_to(self) -> None:
        for number in self.book.conflicting():
            assert self.used[number]
            assert number not in self.book.wanted(self.now)
            assert all(self.book.find(labels) != number for labels in SETS)

    @invariant()
    def the_store_is_believed_where_nobody_uses_the_number(self) -> None:
        for number, labels in self.store.items():
            if not self.used[number]:
                assert self.resolver[number] == labels

    @invariant()
    def what_is_used_is_wanted(self) -> None:
        shared = {number for number in +self.used if number <= LARGEST}
        assert shared - self.book.conflicting() <= self.book.wanted(self.now)


TestBook = Book.TestCase
TestBook.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


def test_a_number_is_wanted_for_a_grace_time() -> None:
    book = IdentityBook(GRACE)
    book.add(300, SETS[0], 5)
    book.use(300)
    book.unuse(300, 100.0)
    assert book.wanted(109.0) == {300}
    assert book.expires_in(300, 104.0) == 6.0
    assert book.wanted(110.0) == set()
    assert book.known() == {300: SETS[0]}, "the store has it yet"


def test_what_an_earlier_run_only_knew_is_not_wanted() -> None:
    book = IdentityBook(GRACE)
    book.restore({300: SETS[0], 301: SETS[1], LOCAL_SCOPE + 7: SETS[2]}, {300: 2, LOCAL_SCOPE + 7: 1}, 0.0)
    assert book.wanted(0.0) == {300}
    assert book.uses(300) == 2
    assert book.uses(LOCAL_SCOPE + 7) == 1
    assert book.use_local(SETS[2]) == LOCAL_SCOPE + 7


def test_the_same_labels_twice_in_the_store_keep_the_first_number() -> None:
    book = IdentityBook(GRACE)
    book.seen(300, SETS[0], 1, 0.0)
    book.seen(301, SETS[0], 2, 0.0)
    assert book.find(SETS[0]) == 300
    assert set(book.known()) == {300, 301}


def test_labels_that_have_another_number_by_now_leave_ours_behind() -> None:
    book = IdentityBook(GRACE)
    book.add(300, SETS[0], 1)
    book.use(300)
    book.conflict(300, None)
    assert book.find(SETS[0]) is None
    assert book.unuse(300, 0.0) == [{300: None}]
    assert book.known() == {}


@given(st.sets(st.integers(SMALLEST, SMALLEST + 40)))
def test_free_numbers_are_nobodys(taken: set[int]) -> None:
    book = IdentityBook(GRACE, draw=lambda first, _last: first)
    for place, number in enumerate(sorted(taken)):
        book.add(number, Labels({"k8s:n": str(place)}))
    assert book.free() not in taken


def test_all_numbers_taken() -> None:
    book = IdentityBook(GRACE)
    for number in range(SMALLEST, LARGEST + 1):
        book.add(number, Labels({"k8s:n": str(number)}))
    with pytest.raises(Exhausted, match="all 65,280 identities"):
        book.free()


def test_more_releases_than_uses_are_a_bug() -> None:
    book = IdentityBook(GRACE)
    book.add(300, SETS[0])
    with pytest.raises(Internal, match="more often"):
        book.unuse(300, 0.0)
