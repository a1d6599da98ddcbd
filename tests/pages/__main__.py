"""Writes the pages of docs/ that are made from the sources: `make docs`."""

from cli import reference
from tests import cni_spec
from tests.pages import errors, metrics, settings
from tests.pages.parts import DOCS

if __name__ == "__main__":
    for one in (errors, metrics, settings, cni_spec):
        one.PAGE.write_text(one.page())
    (DOCS / "cli.md").write_text(reference.page())
