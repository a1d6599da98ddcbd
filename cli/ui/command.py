"""`podlane ui`: serve the page, until Ctrl-C."""

import asyncio
import contextlib
import webbrowser
from importlib import metadata
from ipaddress import ip_address
from pathlib import Path

import click

from services.common.config import Settings
from services.common.errors import InvalidArgument

_DEFAULT = "127.0.0.1:9960"


@click.command("ui")
@click.option(
    "--listen",
    default=_DEFAULT,
    show_default=True,
    metavar="ADDRESS",
    help="Where: host:port of loopback, port 0 for any that is free, or the path of a Unix socket.",
)
@click.option("--open", "open_", is_flag=True, help="Open it in this machine's browser.")
@click.pass_obj
def group(settings: Settings, listen: str, open_: bool) -> None:
    """Serve one live page about this node, until Ctrl-C: endpoints, who talks to whom, controllers, pools, events.

    It only shows. Whoever may connect to this machine's loopback can read it while it runs; a Unix socket is for who
    may open its directory.

    \b
    Examples:
      podlane ui                                             # then http://127.0.0.1:9960/
      podlane ui --listen 127.0.0.1:0 --open
      ssh -t -L 9960:127.0.0.1:9960 root@node podlane ui     # from a desk, then the same there
      podlane ui --listen /run/podlane/ui/ui.sock            # private: ssh -L 9960:/run/podlane/ui/ui.sock root@node
    """
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_serve(settings, where(listen), open_=open_))


def where(listen: str) -> Path | tuple[str, int]:
    """Return the path or the address that `listen` names. Raises InvalidArgument, for what isn't loopback too."""
    if "/" in listen:
        return Path(listen)
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise InvalidArgument(f"--listen: {listen!r} is neither host:port ({_DEFAULT}) nor the path of a Unix socket")
    if host == "localhost":
        return "127.0.0.1", int(port)
    try:
        loopback = ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise InvalidArgument(
            f"--listen: {host} isn't loopback, and the page asks nobody who they are: use 127.0.0.1 or [::1], and "
            "reach it from elsewhere by `ssh -L`"
        )
    return host, int(port)


async def _serve(settings: Settings, where: Path | tuple[str, int], *, open_: bool) -> None:
    from cli.ui.board import Board
    from cli.ui.feeds import Feeds
    from cli.ui.server import Server

    board = Board()
    board.put("node", "self", {"name": settings.node.name, "version": metadata.version("podlane")})
    feeds = Feeds(settings, board)
    server = Server(board, feeds.detail)
    address = await server.start(where)
    try:
        click.echo(f"{settings.node.name} is shown on {address}; Ctrl-C ends", err=True)
        if open_:
            webbrowser.open(address)
        await feeds.run()
    finally:
        await server.stop()
