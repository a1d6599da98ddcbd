"""A process in one network namespace that sees one packet at all interfaces, or sends one. Standard library only.

    tap.py listen NEEDLE          says {"ready": true}, then {"device": "eth0", "outgoing": false, "time": 1.5} for each
                                  frame that has NEEDLE (hexadecimal) in it, until stdin ends
    tap.py send DEVICE FRAME      sends a frame, as it is, and ends

The needle is a packet's addresses and the first four octets behind its IP header, so that it is found in a tunnel, too;
an ICMP error that quotes the packet isn't it. Times are the kernel's, seconds since 1970.
What is sent goes out at the device: the namespace's own routes and rules are not asked.
"""

import json
import select
import socket
import struct
import sys

_ALL = 0x0003  # ETH_P_ALL
_LONGEST = 65536
_TIMESTAMPNS = 35  # SO_TIMESTAMPNS, which Python has no name for
_TIME = struct.Struct("=qq")
_TOLD = socket.CMSG_SPACE(_TIME.size)


def main(argv: list[str]) -> int:
    """Do what the arguments say."""
    if argv[0] == "send":
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((argv[1], 0))
            sender.send(bytes.fromhex(argv[2]))
        return 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, _TIMESTAMPNS, 1)
        _say({"ready": True})
        _listen(listener, bytes.fromhex(argv[1]))
    return 0


def _listen(listener: socket.socket, needle: bytes) -> None:
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if listener in ready:
            frame, told, _, (device, _, kind, *_) = listener.recvmsg(_LONGEST, _TOLD)
            if needle in frame and not _is_error(frame, needle):
                seconds, nanoseconds = _TIME.unpack(told[0][2])
                time = seconds + nanoseconds / 1e9
                _say({"device": device, "outgoing": kind == socket.PACKET_OUTGOING, "time": time})
        elif not sys.stdin.read(1):
            return


def _is_error(frame: bytes, needle: bytes) -> bool:
    if frame[12:14] == b"\x08\x00":
        return frame[23] == socket.IPPROTO_ICMP and not frame.startswith(needle, 26)
    return frame[20] == socket.IPPROTO_ICMPV6 and not frame.startswith(needle, 22)


def _say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
