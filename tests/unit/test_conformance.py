"""docs/cni-conformance.md: every requirement has a test, every claim is of one, and the page is up to date."""

from tests import cni_spec


def test_every_requirement_is_shown_by_a_test():
    shown = {claim.requirement for claim in cni_spec.claims()}
    assert cni_spec.requirements().keys() - shown == set()


def test_every_claim_is_of_a_requirement():
    known = cni_spec.requirements()
    assert [claim for claim in cni_spec.claims() if claim.requirement not in known] == []


def test_no_two_requirements_have_one_id():
    ids = [one.id for section in cni_spec.SECTIONS for one in section.requirements]
    assert len(ids) == len(set(ids))


def test_the_page_is_up_to_date():
    assert cni_spec.PAGE.read_text() == cni_spec.page(), "run: python -m tests.cni_spec"
