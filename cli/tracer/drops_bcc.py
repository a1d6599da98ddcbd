"""The tracer's process: bcc at skb:kfree_skb, drops about pods as JSON lines on stdout.

Run by the system's Python, because Debian's bcc is for that one, and as a process of its own, because bcc brings LLVM
along: 60 MB that are gone when the tracing ends. It imports nothing but the standard library, bcc and the file beside
it, and lives for as long as its stdin is open: whatever becomes of who started it, the kernel forgets the program.

    stdin   {"add": {"addresses": ["0a4d0005"], "interfaces": [12], "namespaces": [4026532000]}}, "remove" likewise
            each line is answered by {"taken": n}, n of them so far
    stdout  {"ready": {"reasons": {"3": "NO_SOCKET", …}}}    the program is attached; drops may follow
            {"drop": {…}}                                    one packet (_told)
            {"lost": 7}                                      so many more were not told: the ring was full
            {"error": "…", "missing": true}                  and exit code 1; missing: bcc isn't installed

What it can't know is empty: a packet without an IP header has no addresses, one that a socket has queued no device.
"""

import contextlib
import ctypes
import json
import os
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

# A script's own directory is the first place where it finds modules.
from kernel_types import KernelTypes, UnknownTypeError  # type: ignore[import-not-found] # as mypy doesn't know

BTF = Path("/sys/kernel/btf/vmlinux")
RECORD = struct.Struct("=QQ16s16sIIIIHHHHBBBB16s4x")
MAX_PODS, RING_PAGES = 65536, 256
# What bcc's headers include of the kernel's.
_HEADERS = (
    *("linux/kconfig.h", "linux/types.h", "linux/bpf_common.h", "linux/version.h", "linux/log2.h", "asm/page.h"),
    *("uapi/linux/bpf.h", "uapi/linux/if_packet.h", "uapi/linux/if_ether.h"),
)
_LOST_EVERY_MS = 200
_SAYING = threading.Lock()


def main() -> int:
    """Trace until stdin ends."""
    try:
        from bcc import BPF
    except ImportError as error:
        return _fail(f"bcc can't be imported by {sys.executable}: {error}", missing=True)
    try:
        types = KernelTypes(BTF.read_bytes())
        text, reasons = _text(types), types.drop_reasons()
        with _headers() as directory:
            os.environ["BCC_KERNEL_SOURCE"] = directory
            with _quiet() as complaints:
                try:
                    bpf = BPF(text=text)
                    bpf.attach_raw_tracepoint(tp=b"kfree_skb", fn_name=b"dropped")
                except Exception as error:  # noqa: BLE001 # bcc raises Exception itself
                    return _fail(f"{error}: {_end_of(complaints)}")
    except UnknownTypeError as error:
        return _fail(f"{error}: podlane trace drops needs a kernel that says why it drops (5.17 or later)")
    except OSError as error:
        return _fail(f"{error}: the kernel's type information is needed (CONFIG_DEBUG_INFO_BTF)")
    _say({"ready": {"reasons": reasons}})
    _run(bpf)
    return 0


def _run(bpf: Any) -> None:
    symbols: dict[int, str] = {}

    def symbol(address: int) -> str:
        if address not in symbols:
            symbols[address] = bpf.ksym(address, show_offset=True).decode()
        return symbols[address]

    bpf["drops"].open_ring_buffer(lambda _context, data, _size: _say({"drop": _told(_bytes(data), symbol)}))
    commands = _Commands(bpf)
    commands.start()
    told, going = 0, True
    while going:
        going = commands.is_alive()
        bpf.ring_buffer_poll(_LOST_EVERY_MS if going else 0)
        lost = sum(bpf["lost"].values()[0])
        if lost > told:
            _say({"lost": lost - told})
            told = lost


def _bytes(data: Any) -> bytes:
    """Return the record that a pointer leads to."""
    return ctypes.string_at(data, RECORD.size)


def _told(record: bytes, symbol: Any) -> dict[str, Any]:
    """Return a record with names. `time` is in nanoseconds of the monotonic clock, `ethertype` a number."""
    time, location, source, destination, reason, netns, ifindex, length, *rest = RECORD.unpack(record)
    ethertype, source_port, destination_port, cpu, family, protocol, has_ports, flags, device = rest
    size = 4 if family == 4 else 16
    return {
        "time": time,
        "reason": reason,
        "function": symbol(location),
        "netns": netns,
        "ifindex": ifindex,
        "device": device.rstrip(b"\0").decode(errors="replace"),
        "length": length,
        "cpu": cpu,
        "ethertype": _swapped(ethertype),
        "source": str(ip_address(source[:size])) if family else "",
        "destination": str(ip_address(destination[:size])) if family else "",
        "protocol": protocol,
        "has_ports": bool(has_ports),
        "source_port": _swapped(source_port),
        "destination_port": _swapped(destination_port),
        "flags": flags,
    }


def _swapped(number: int) -> int:
    return number >> 8 | (number & 0xFF) << 8


class _Commands(threading.Thread):
    """Which pods there are, as stdin says, until it ends. A thread of its own: what a new pod does at once counts."""

    def __init__(self, bpf: Any) -> None:
        super().__init__(daemon=True)
        self._maps = {name: bpf[name] for name in ("addresses", "interfaces", "namespaces")}

    def run(self) -> None:
        """Carry out what comes."""
        for taken, line in enumerate(sys.stdin, 1):
            self._carry_out(json.loads(line))
            _say({"taken": taken})

    def _carry_out(self, command: Mapping[str, Mapping[str, list[Any]]]) -> None:
        for verb, named in command.items():
            for name, keys in named.items():
                found = self._maps[name]
                for key in keys:
                    packed = self._key(found, key)
                    if verb == "add":
                        found[packed] = found.Leaf(1)
                    else:
                        with contextlib.suppress(KeyError):
                            del found[packed]

    @staticmethod
    def _key(found: Any, key: Any) -> Any:
        if isinstance(key, int):
            return found.Key(key)
        return found.Key.from_buffer_copy(bytes.fromhex(key).ljust(16, b"\0"))


def _text(types: KernelTypes) -> str:
    defined = {
        **{f"SKB_{name.upper()}": types.offset("sk_buff", name) for name in ("dev", "sk", "head", "len", "protocol")},
        "SKB_NETWORK_HEADER": types.offset("sk_buff", "network_header"),
        "DEVICE_NET": types.offset("net_device", "nd_net.net"),
        "DEVICE_IFINDEX": types.offset("net_device", "ifindex"),
        "DEVICE_NAME": types.offset("net_device", "name"),
        "SOCK_NET": types.offset("sock", "__sk_common.skc_net.net"),
        "NET_INUM": types.offset("net", "ns.inum"),
        # The first parameter is the tracer's own; socket and all before it make five (6.13 and later).
        "HAS_LISTENER": int(types.parameters("btf_trace_kfree_skb") >= 5),
        "NODE_NETNS": f"{Path('/proc/self/ns/net').stat().st_ino}U",
        "MAX_PODS": MAX_PODS,
        "RING_PAGES": RING_PAGES,
    }
    lines = "".join(f"#define {name} {value}\n" for name, value in defined.items())
    return lines + Path(__file__).with_name("kfree_skb.c").read_text()


@contextlib.contextmanager
def _headers() -> Iterator[str]:
    """Yield a directory that bcc takes for the kernel's sources."""
    types = Path(__file__).with_name("types.h").read_text()
    with tempfile.TemporaryDirectory(prefix="podlane-bcc-") as directory:
        for name in _HEADERS:
            path = Path(directory, "include", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(types)
        yield directory


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """Keep what the compiler says on stderr to the file that is yielded."""
    with tempfile.TemporaryFile("w+") as complaints:
        before = os.dup(2)
        os.dup2(complaints.fileno(), 2)
        try:
            yield complaints
        finally:
            os.dup2(before, 2)
            os.close(before)


def _end_of(complaints: Any) -> str:
    complaints.seek(0)
    return complaints.read()[-2000:].strip().replace("\n", " | ") or "the compiler said nothing"


def _say(message: Mapping[str, Any]) -> None:
    with _SAYING:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def _fail(error: str, *, missing: bool = False) -> int:
    _say({"error": error, "missing": missing})
    return 1


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
