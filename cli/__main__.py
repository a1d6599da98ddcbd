"""`python -m cli`: the same as `podlane`."""

from cli.start import run

run()
