"""What the loader must be allowed, asked before anything else (capabilities(7))."""

from pathlib import Path

from services.common.errors import FailedPrecondition

# linux/capability.h. setns and mounting a bpffs: SYS_ADMIN; links: NET_ADMIN; programs: BPF and PERFMON.
_NEEDED = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}

_STATUS = Path("/proc/self/status")


def require() -> None:
    """Raise FailedPrecondition when this process may not do a loader's work."""
    check(_STATUS.read_text())


def check(status: str) -> None:
    """Raise FailedPrecondition naming what is missing. `status` is the text of /proc/self/status."""
    effective = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)
    missing = [name for name, bit in _NEEDED.items() if not effective >> bit & 1]
    if missing:
        raise FailedPrecondition(
            f"the loader needs root for eBPF and links and lacks {', '.join(missing)}: start it with sudo, or by its "
            "systemd unit",
            missing=", ".join(missing),
        )
