"""`podlane version`."""

import platform
from importlib import metadata

import click

from cli.present import output_option, show_json


@click.command("version")
@output_option
def group(output: str) -> None:
    """Show the version of podlane, of Python and of the kernel. Asks no service.

    \b
    Examples:
      podlane version
      podlane version -o json | jq -r .podlane
    """
    told = {"podlane": metadata.version("podlane"), "python": platform.python_version(), "kernel": platform.release()}
    if output == "json":
        show_json(told)
        return
    for name, version in told.items():
        click.echo(f"{name:9}{version}")
