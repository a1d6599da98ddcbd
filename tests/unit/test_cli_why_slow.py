"""Which phase is to blame for a slow creation, and how that is said."""

from cli.why_slow import HINTS, Usual, between, blame, sentence, table
from services.endpoint.timeline import BESIDE, PHASES

TOOK = {
    "start": 9000,
    "addresses": 2000,
    "link": 3000,
    "datapath": 30000,
    "datapath/load": 26000,
    "datapath/load/rewrite": 100,
    "datapath/load/verify": 25000,
    "datapath/maps": 300,
    "confirm": 90000,
    "publish": 80000,
}
TOTAL = 45000
USUAL = {
    "total": Usual(100, 20000, 30000),
    "start": Usual(100, 9000, 12000),
    "addresses": Usual(100, 1900, 3000),
    "link": Usual(100, 2900, 4000),
    "datapath": Usual(100, 6000, 9000),
    "datapath/load": Usual(100, 3000, 4000),
    "datapath/load/rewrite": Usual(100, 100, 200),
    "datapath/load/verify": Usual(100, 2500, 3000),
    "datapath/maps": Usual(100, 300, 400),
}


def named(took: dict[str, int], usual: dict[str, Usual], total: int = TOTAL) -> str:
    blamed = blame(total, took, usual)
    return blamed.name if blamed is not None else ""


def test_blame_goes_down_as_far_as_one_part_makes_up_most_of_it():
    assert named(TOOK, USUAL) == "datapath/load/verify"
    assert named({**TOOK, "datapath/load/verify": 3000}, USUAL) == "datapath/load"
    assert named({**TOOK, "datapath/load": 3000, "datapath/load/verify": 2500}, USUAL) == "datapath"


def test_what_is_beyond_the_usual_is_to_blame_and_not_what_is_large():
    took = {**TOOK, "datapath": 6000, "datapath/load": 3000, "datapath/load/verify": 2500, "addresses": 27000}
    assert named(took, {**USUAL, "start": Usual(100, 40000, 50000)}) == "addresses"


def test_what_runs_beside_or_after_is_never_to_blame():
    assert named({"start": 1, "confirm": 90000, "publish": 90000}, {}) == "start"


def test_where_nothing_was_slow_the_largest_is_named_and_marked():
    took = {**TOOK, "datapath": 6000, "datapath/load": 3000, "datapath/load/verify": 2500}

    assert named(took, USUAL, 21000) == "start"
    assert sentence(21000, took, USUAL) == (
        "It was about as fast as usual. What took longest was start: 9ms, 43 % of all."
    )
    assert [row[0] for row in table(21000, took, USUAL) if row[-1]] == ["start"]


def test_the_sentence_has_numbers_and_says_where_to_look():
    said = sentence(TOTAL, TOOK, USUAL)

    assert said.startswith("It took 25ms longer than usual, 22.5ms of that in verify, in load, in datapath.")
    assert HINTS["datapath/load"] in said
    assert sentence(TOTAL, TOOK, {}).startswith("What is usual isn't known yet. What took longest was verify, in load")
    assert sentence(TOTAL, {}, USUAL) == "Nothing is known of its parts."


def test_the_table_is_a_tree_that_adds_up():
    rows = table(TOTAL, TOOK, USUAL)

    names = [row[0] for row in rows]
    assert names == [
        *("start", "addresses", "link", "datapath", "  load", "    rewrite", "    verify", "  maps"),
        *("(between)", "total", "confirm", "publish"),
    ]
    assert between(TOTAL, TOOK) == 1000
    assert rows[names.index("    verify")] == ("    verify", "25ms", "2.5ms", "3ms", "10.0", "<")
    assert rows[names.index("confirm")][2:] == ("-", "-", "-", "")


def test_hints_are_about_phases_that_there_are():
    assert set(HINTS) <= set(PHASES) - BESIDE
