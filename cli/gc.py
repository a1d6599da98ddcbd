"""`podlane gc`: what pods that are gone have left, with its evidence, and what was done about it."""

import click

from cli import garbage
from cli.present import output_option


@click.command("gc")
@click.option("--dry-run", is_flag=True, help="Change nothing, show what would be done.")
@output_option
@click.pass_context
def group(context: click.Context, dry_run: bool, output: str) -> None:
    """Find and remove what pods that are gone have left.

    Endpoints without a link or a namespace, datapaths and links without an endpoint, addresses without an owner. Each
    finding is looked at twice; what may belong to a running pod is kept and shown. Exit code 1 when something could
    not be removed.

    \b
    Examples:
      podlane gc --dry-run
      podlane gc --dry-run -o json | jq -r '.[] | select(.action == "keep") | .object'
    """
    findings = garbage.collect(context.obj, (), dry_run=dry_run)
    garbage.show(findings, output, "nothing is left behind")
    if any(garbage.outcome(finding) == "failed" for finding in findings):
        context.exit(1)
