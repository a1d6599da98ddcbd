"""Masquerading: what pods send to anywhere but pods leaves with the node's address. One nftables table of our own.

    table inet podlane     replaced as a whole, in one transaction: packets see the old rules or the new ones

Connections that are under way keep their translation: conntrack has it, the rules only choose for new ones. `nft` does
the work (nft(8)); other tables are never touched, and rules there that drop forwarded packets still drop them.
"""

import asyncio
import shutil
from collections.abc import Sequence

from services.common import telemetry
from services.common.errors import FailedPrecondition, Unavailable
from services.common.model import Network

_log = telemetry.logger("masquerade")

TABLE = "inet podlane"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LIST = ("-s", "list", "table", "inet", "podlane")


class Masquerade:
    """The table. One caller at a time."""

    def __init__(self, nft: str = "nft") -> None:
        """`nft` is the program's name or path."""
        self._nft = nft
        self._applied = ("", "")

    async def apply(
        self, pod_cidrs: Sequence[Network], cluster_cidrs: Sequence[Network] = (), tunnel_port: int = 0
    ) -> bool:
        """Masquerade what leaves the ranges, but for the cluster's; return whether the table had to be written.

        `tunnel_port`: packets of the overlay are not tracked; 0: there is none.

        Raises FailedPrecondition when nft isn't there or isn't allowed to, Unavailable when it fails.
        """
        wanted = rules(pod_cidrs, cluster_cidrs, tunnel_port)
        if self._applied == (wanted, await self._listing()):
            return False
        await self._run(("-f", "-"), f"add table {TABLE}\ndelete table {TABLE}\n{wanted}")
        self._applied = (wanted, await self._listing())
        _log.info("masquerading", pod_cidrs=[str(network) for network in pod_cidrs])
        return True

    async def remove(self) -> bool:
        """Masquerade nothing; return whether there was a table. A node without nft has none."""
        self._applied = ("", "")
        if shutil.which(self._nft, path=_PATH) is None or not await self._listing():
            return False
        await self._run(("-f", "-"), f"delete table {TABLE}\n")
        _log.info("masquerading no more")
        return True

    async def _listing(self) -> str:
        """Return the table as the kernel has it, empty when there is none."""
        code, stdout, stderr = await self._execute(_LIST, "")
        if code and "No such file or directory" not in stderr:
            raise _failure(_LIST, code, stderr)
        return "" if code else stdout

    async def _run(self, arguments: Sequence[str], stdin: str) -> None:
        code, _, stderr = await self._execute(arguments, stdin)
        if code:
            raise _failure(arguments, code, stderr)

    async def _execute(self, arguments: Sequence[str], stdin: str) -> tuple[int, str, str]:
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                self._nft, *arguments, stdin=pipe, stdout=pipe, stderr=pipe, env={"LC_ALL": "C", "PATH": _PATH}
            )
        except OSError as error:
            raise FailedPrecondition(
                f"masquerading needs {self._nft}: {error.strerror}; install nftables or set loader.masquerade = false",
                command=self._nft,
            ) from error
        stdout, stderr = await process.communicate(stdin.encode())
        return await process.wait(), stdout.decode(), stderr.decode()


def rules(pod_cidrs: Sequence[Network], cluster_cidrs: Sequence[Network] = (), tunnel_port: int = 0) -> str:
    """Return the table as nft reads it. Node and pods reach each other untranslated through `lxc*` and `podlane_*`."""
    inside = [*pod_cidrs, *cluster_cidrs]
    lines = [
        f"table {TABLE} {{",
        *(line for version in (4, 6) for line in _set("pods", version, pod_cidrs)),
        *(line for version in (4, 6) if cluster_cidrs for line in _set("cluster", version, inside)),
        *(_untracked(tunnel_port) if tunnel_port else []),
        "  chain postrouting {",
        "    type nat hook postrouting priority srcnat; policy accept;",
        '    oifname "lxc*" return',
        '    oifname "podlane_*" return',
    ]
    for version, family in ((4, "ip"), (6, "ip6")):
        if any(network.version == version for network in pod_cidrs):
            name = "cluster" if cluster_cidrs else "pods"
            lines.append(f"    {family} saddr @pods{version} {family} daddr != @{name}{version} masquerade")
    return "\n".join([*lines, "  }", "}", ""])


def _untracked(port: int) -> list[str]:
    """Return chains that keep the overlay's packets, both ways, out of conntrack: nothing translates them."""
    return [
        line
        for hook in ("prerouting", "output")
        for line in (
            f"  chain untracked_{hook} {{",
            f"    type filter hook {hook} priority raw; policy accept;",
            f"    udp dport {port} notrack",
            "  }",
        )
    ]


def _set(name: str, version: int, cidrs: Sequence[Network]) -> list[str]:
    networks = [str(network) for network in cidrs if network.version == version]
    if not networks:
        return []
    return [
        f"  set {name}{version} {{",
        f"    type ipv{version}_addr; flags interval; auto-merge",
        f"    elements = {{ {', '.join(networks)} }}",
        "  }",
    ]


def _failure(arguments: Sequence[str], code: int, stderr: str) -> FailedPrecondition | Unavailable:
    said = " ".join(stderr.split()) or "nothing on stderr"
    what = f"nft {' '.join(arguments)}: exit {code}: {said}"
    if "Operation not permitted" in said:
        return FailedPrecondition(f"{what}: the loader needs CAP_NET_ADMIN", exit=code)
    return Unavailable(what, exit=code)
