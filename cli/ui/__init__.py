"""`podlane ui`: one live page about this node, for a browser on this machine.

    services ──gRPC──▶ feeds.py ──▶ board.py ◀── server.py ──HTTP, SSE──▶ static/ (in the browser)
                          └─ shapes.py, edges.py     └─ http.py, files.py

1. `feeds.py` listens to the three services and asks them now and then; `shapes.py` makes of their messages what the
   page shows, `edges.py` sums up who talks to whom. A service that is away is told as such and waited for.
2. `board.py` has the present: values by kind and key, each with the revision at which it last changed.
3. The page takes one snapshot, then the server sends what has changed since, over Server-Sent Events. Who was cut off
   says how far it had come; who is too far behind takes a snapshot again.

Invariants. It reads: no call of it changes anything, and it answers GET and HEAD only. It listens on loopback or on a
Unix socket, and answers only who calls it by a name of loopback, so that no web page can read it by a name of its own
that points here. Pods' names, labels and errors are others' texts: they are JSON to the server and text nodes to the
page; nothing from elsewhere is loaded or run (Content-Security-Policy). What it keeps is bounded: events, edges,
connections, what is sent to a slow reader.
"""

from cli.ui.command import group

__all__ = ["group"]
