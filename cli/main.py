"""The root of the command: global options, and the nouns, each loaded when it is first used."""

import importlib
import sys
from pathlib import Path
from typing import Any

import click

from cli import exits
from services.common.errors import PodlaneError

_NOUNS = {
    "bpf": "what is in the kernel: each map with names, programs, pins",
    "completion": "what makes a shell complete this command's words",
    "bugtool": "write all that is known of the node into one archive, and find contradictions in it",
    "config": "the switches of the endpoint programs, for all endpoints of the node",
    "cni": "install or remove the CNI plugin; the deletions that it has journalled",
    "controllers": "what the services do by themselves, and what of it fails",
    "endpoint": "the pods' endpoints",
    "flows": "who talks to whom, how much, and what was dropped",
    "gc": "find and remove what pods that are gone have left",
    "identity": "who endpoints are, as policy sees it",
    "ipam": "addresses and pools",
    "kvstore": "what the nodes of a cluster tell each other",
    "monitor": "watch what happens: drops, traces, verdicts, connections, endpoints, controllers",
    "node": "start, stop and show the node's services",
    "policy": "who may talk to whom: NetworkPolicies, and what follows from them",
    "status": "how it is with this node, its kvstore and the other nodes",
    "trace": "where packets die, and what the programs would do with one",
    "ui": "one live page about this node, for a browser",
    "version": "which podlane this is",
}


_HELP = {"-h", "--help"}


class Nouns(click.Group):
    """A group whose commands live in `cli.<noun>`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 # click's signature
        """Return the nouns in alphabetical order."""
        return sorted(_NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 # click's signature
        """Import the noun's module and return its `group`."""
        if cmd_name not in _NOUNS:
            return None
        # What libraries could bring along is a fifth of what a command takes.
        from services.common import lean

        lean.shed()
        command: click.Command = importlib.import_module(f"cli.{cmd_name}").group
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the nouns without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_NOUNS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete a noun without importing any, or an option."""
        from click.shell_completion import CompletionItem

        nouns = [
            CompletionItem(noun, help=text) for noun, text in sorted(_NOUNS.items()) if noun.startswith(incomplete)
        ]
        return nouns + click.Command.shell_complete(self, ctx, incomplete)


@click.group(
    cls=Nouns,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"\b\nExit codes:\n{exits.table()}",
)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file (TOML). Default: $PODLANE_CONFIG, else /etc/podlane/podlane.toml if it exists.",
)
@click.version_option(package_name="podlane", message="podlane %(version)s")
@click.pass_context
def podlane(context: click.Context, file: Path | None) -> None:
    """Operate podlane on this node.

    \b
    Examples:
      podlane status
      podlane endpoint list -o wide --watch
      podlane endpoint get shop/web-0
      podlane bpf policy get shop/web-0
      podlane monitor --type drop
      podlane policy explain --from shop/web-0 --to shop/db-0 --port 5432
    """
    from services.common import configfile

    try:
        context.obj = configfile.load_from_process(file)
    except PodlaneError:
        # Help is there for whoever has a file that can't be read, too.
        if not _HELP.intersection(sys.argv):
            raise


def main() -> int:
    """Run the command; errors are one line on stderr, exit codes are those of exits.py."""
    try:
        return int(podlane(prog_name="podlane", standalone_mode=False) or 0)
    except PodlaneError as error:
        click.echo(f"podlane: {error.message}", err=True)
        return exits.code(error)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return exits.INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return exits.NO_READER
