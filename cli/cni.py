"""`podlane cni`: puts the CNI plugins where the runtime looks, and takes them away."""

from pathlib import Path

import click

from services.common.config import Settings
from services.common.errors import FailedPrecondition, Unavailable

_BIN, _CONF = Path("/opt/cni/bin"), Path("/etc/cni/net.d")
_directory = click.Path(path_type=Path, file_okay=False)


@click.group("cni", help="The CNI plugins and the network configuration.")
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
    Example: podlane cni install --bin-dir /opt/cni/bin --conf-dir /etc/cni/net.d
    """
    from cni import install as installer

    sockets = {"ipam": settings.ipam.socket, "loader": settings.loader.socket, "endpoint": settings.endpoint.socket}
    try:
        written = installer.install(bin_dir, conf_dir, python=python, sockets=sockets)
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
    """Remove the conflist, then the plugins. Running pods keep their network; what isn't there is no error."""
    from cni import install as installer

    try:
        removed = installer.uninstall(bin_dir, conf_dir)
    except OSError as error:
        raise Unavailable(f"{error.filename}: can't be removed: {error.strerror}; is root needed?") from None
    for path in removed:
        click.echo(f"removed {path}")
    if not removed:
        click.echo("nothing was installed")
