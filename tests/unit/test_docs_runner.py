"""What runs the examples of docs/: it finds all of them, and an output that differs is a failure."""

from pathlib import Path

import pytest

from tests import docs_runner
from tests.docs_runner import Step

PAGE = """
# Title

```console
$ first
one
$ cat >/tmp/x <<'EOF'
> a
> EOF
$ second
> is printed, not typed
```

```sh
$ not ours
```

   ```console
$ third
   ```
"""


def test_all_commands_of_a_page_are_found(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)

    assert list(docs_runner.steps(page)) == [
        Step(5, "first", ("one",)),
        Step(7, "cat >/tmp/x <<'EOF'\na\nEOF", ()),
        Step(10, "second\nis printed, not typed", ()),
        Step(19, "third", ()),
    ]


@pytest.mark.parametrize(
    ("expected", "told", "right"),
    [
        ((), "", True),
        ((), "noise", False),
        (("a",), "a", True),
        (("a",), "a\nb", False),
        (("a", "b"), "a", False),
        (("a …",), "a 1.5 ms", True),
        (("a …",), "b 1.5 ms", False),
        (("a", "…"), "a", True),
        (("a", "…"), "a\nb\nc", True),
        (("…", "c"), "a\nb\nc", True),
        (("…", "c"), "a\nb", False),
        (("a (b)",), "a (b)", True),
        (("a.c",), "abc", False),
    ],
)
def test_an_output_is_what_the_page_says(expected: tuple[str, ...], told: str, right: bool):
    assert docs_runner.matches(expected, told) == right
