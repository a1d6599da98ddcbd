"""The table of drop reasons in the docs is the one that the loader has."""

from pathlib import Path

from services.loader import dropreasons
from services.loader.refusal import DropReason

PAGE = Path(__file__).parents[2] / "docs" / "monitor.md"
BEGIN, END = "<!-- python -m services.loader.dropreasons -->\n", "\n<!-- end -->"


def test_each_reason_is_explained() -> None:
    assert dropreasons.EXPLANATIONS.keys() == set(DropReason)
    assert all(one.means.endswith(".") and one.do.endswith(".") for one in dropreasons.EXPLANATIONS.values())


def test_the_page_has_what_the_loader_says() -> None:
    """Otherwise: put what `python -m services.loader.dropreasons` prints between the two marks."""
    assert PAGE.read_text().partition(BEGIN)[2].partition(END)[0] == dropreasons.table()
