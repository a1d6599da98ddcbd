"""`podlane config`: the switches that all endpoints of this node have unless one is set otherwise."""

import click

from cli import options
from cli.present import output_option
from services.common.config import Settings


@click.group("config", help="The switches of the endpoint programs, for all endpoints of the node.")
def group() -> None:
    """Hold the verbs."""


@group.command("list")
@output_option
@click.pass_obj
def list_options(settings: Settings, output: str) -> None:
    """List the switches, what they are set to and what they do.

    \b
    Examples:
      podlane config list
      podlane config list -o yaml
    """
    options.show_or_set(settings, None, (), output)


@group.command("set")
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE...")
@output_option
@click.pass_obj
def set_options(settings: Settings, changes: tuple[str, ...], output: str) -> None:
    """Set switches; VALUE is on, off or default. Endpoints whose programs that changes are regenerated at once.

    Exit code 1 when one of them failed: the switch stays set, its old programs stay live and it is tried again.

    \b
    Examples:
      podlane config set debug=on
      podlane config set trace=default policy-verdict=on
    """
    options.show_or_set(settings, None, changes, output)
