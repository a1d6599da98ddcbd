"""`podlane completion`: what a shell sources to complete this command's words. The rest is click's, and complete.py."""

import click

from services.common.errors import FailedPrecondition


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def group(context: click.Context, shell: str) -> None:
    """Print a script for a shell: nouns, verbs, options, endpoints by id and by pod.

    Endpoints are asked of podlane-endpoint while one types; nothing is offered while it is away.

    \b
    Examples:
      source <(podlane completion bash)
      podlane completion bash > /etc/bash_completion.d/podlane
      podlane completion zsh > "${fpath[1]}/_podlane"
      podlane completion fish > ~/.config/fish/completions/podlane.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise FailedPrecondition(f"click knows no completion for {shell}: is it older than 8.1?")
    click.echo(kind(context.find_root().command, {}, "podlane", "_PODLANE_COMPLETE").source())
