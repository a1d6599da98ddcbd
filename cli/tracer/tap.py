"""A process in one network namespace that sees one packet at all interfaces, or sends one. Standard library only.

    tap.py listen NEEDLE          says {"ready": true}, then {"device": "eth0", "outgoing": false} for each frame that
                                  has NEEDLE (hexadecimal) in it, until stdin ends
    tap.py send DEVICE FRAME      sends a frame, as it is, and ends

The needle is a packet's addresses and the first four octets behind its IP header, so that it is found in a tunnel, too.
What is sent goes out at the device: the namespace's own routes and rules are not asked.
"""

import json
import select
import socket
import sys

_ALL = 0x0003  # ETH_P_ALL
_LONGEST = 65536


def main(argv: list[str]) -> int:
    """Do what the arguments say."""
    if argv[0] == "send":
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((argv[1], 0))
            sender.send(bytes.fromhex(argv[2]))
        return 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL)) as listener:
        _say({"ready": True})
        _listen(listener, bytes.fromhex(argv[1]))
    return 0


def _listen(listener: socket.socket, needle: bytes) -> None:
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if listener in ready:
            frame, (device, _, kind, *_) = listener.recvfrom(_LONGEST)
            if needle in frame:
                _say({"device": device, "outgoing": kind == socket.PACKET_OUTGOING})
        elif not sys.stdin.read(1):
            return


def _say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
