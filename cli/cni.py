"""`podlane cni`: puts the CNI plugins where the runtime looks, takes them away, and shows what DEL has journalled."""

import time
from pathlib import Path
from typing import Any

import click

from cli.listing import How, Listing, listing_options, show
from cli.present import age
from services.common.config import Settings
from services.common.errors import FailedPrecondition, PodlaneError, Unavailable

_BIN, _CONF = Path("/opt/cni/bin"), Path("/etc/cni/net.d")
_directory = click.Path(path_type=Path, file_okay=False)


@click.group("cni", help="The CNI plugins, the network configuration and the deletion journal.")
def group() -> None:
    """Hold the verbs."""


@group.command("install")
@click.option("--bin-dir", type=_directory, default=_BIN, show_default=True, help="Where the runtime finds plugins.")
@click.option("--conf-dir", type=_directory, default=_CONF, show_default=True, help="Where it finds configurations.")
@click.option("--python", type=click.Path(path_type=Path), help="The plugin's interpreter. Default: /usr/bin/python3.")
@click.pass_obj
def install(settings: Settings, bin_dir: Path, conf_dir: Path, python: Path | None) -> None:
    """Write the plugin, the IPAM plugin podlane-ipam and a conflist, each atomically; again is an update.

    \b
    Examples:
      podlane cni install
      podlane cni install --bin-dir /opt/cni/bin --conf-dir /etc/cni/net.d
    """
    from cni import install as installer

    sockets = {"ipam": settings.ipam.socket, "loader": settings.loader.socket, "endpoint": settings.endpoint.socket}
    try:
        further = {"journalDir": str(settings.endpoint.journal_dir)}
        written = installer.install(bin_dir, conf_dir, python=python, sockets=sockets, settings=further)
    except installer.InstallError as error:
        raise FailedPrecondition(str(error)) from None
    except OSError as error:
        raise Unavailable(f"{error.filename}: can't be written: {error.strerror}; is root needed?") from None
    for path in written:
        click.echo(f"wrote {path}")


@group.command("uninstall")
@click.option("--bin-dir", type=_directory, default=_BIN, show_default=True, help="Where the runtime finds plugins.")
@click.option("--conf-dir", type=_directory, default=_CONF, show_default=True, help="Where it finds configurations.")
def uninstall(bin_dir: Path, conf_dir: Path) -> None:
    """Remove the conflist, then the plugins. Running pods keep their network; what isn't there is no error.

    \b
    Examples:
      podlane cni uninstall
    """
    from cni import install as installer

    try:
        removed = installer.uninstall(bin_dir, conf_dir)
    except OSError as error:
        raise Unavailable(f"{error.filename}: can't be removed: {error.strerror}; is root needed?") from None
    for path in removed:
        click.echo(f"removed {path}")
    if not removed:
        click.echo("nothing was installed")


@group.command("journal")
@listing_options
@click.pass_obj
def journal(settings: Settings, how: How) -> None:
    """List the deletion journal: each DEL that found a service away and is not carried out yet, the oldest first.

    podlane-endpoint carries them out by itself. When it doesn't answer, its directory is read. Exit code 1 when a
    deletion fails or can't be read.

    \b
    Examples:
      podlane cni journal
      podlane cni journal -o json | jq -r '.[] | .last_error'
    """
    if any(one.last_error for one in show(_LISTING, lambda: _journalled(settings), how)):
        raise SystemExit(1)


def _journalled(settings: Settings) -> list[Any]:
    found, silent = deletions(settings)
    if silent:
        click.echo(f"podlane: {silent}; these are the files in {settings.endpoint.journal_dir}", err=True)
    return found


def deletions(settings: Settings, silent: str = "") -> tuple[list[Any], str]:
    """Return what is in the journal as Deletion messages, and why podlane-endpoint wasn't who told; "": it was.

    `silent`: why it needn't be asked. Raises Unavailable when its directory can't be read either.
    """
    from podlane.endpoint.v1 import endpoint_pb2

    from cli import connect

    if not silent:
        try:
            reply = connect.ask(connect.endpoint(settings), "ListDeletions", endpoint_pb2.ListDeletionsRequest())
            return list(reply.deletions), ""
        except PodlaneError as error:
            silent = error.message
    from services.common.deletions import scan

    found = sorted(scan(settings.endpoint.journal_dir, {}).values(), key=lambda one: one.when)
    return [endpoint_pb2.Deletion(**one.fields()) for one in found], silent


def waited(deletion: Any) -> float:
    """Return how many seconds ago a deletion was journalled."""
    return max(0.0, time.time() - float(deletion.journalled.seconds + deletion.journalled.nanos / 1e9))


def _row(deletion: Any) -> tuple[str, ...]:
    owner = deletion.attachment
    named = (owner.network, owner.container_id[:12], owner.ifname) if owner.network else (deletion.file, "-", "-")
    last = " ".join(deletion.last_error.split()) or "-"
    return (*named, age(waited(deletion)), str(deletion.failures), last, deletion.netns_path or "-", deletion.file)


_LISTING = Listing(
    titles=("NETWORK", "CONTAINER", "INTERFACE", "AGE", "FAILED", "LAST ERROR"),
    wide=("NETNS", "FILE"),
    rows=lambda deletion: [_row(deletion)],
    empty="no deletions wait",
    name=lambda deletion: f"deletion/{deletion.file}",
    flexible="LAST ERROR",
)
