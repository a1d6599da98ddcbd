"""`podlane trace`: where packets die, and what the programs would do with one.

drops_bcc.py, kfree_skb.c, types.h, kernel_types.py   the tracer's process: bcc, and nothing of podlane
process.py        starts it, tells it which pods there are, hears it, ends it
pods.py           who is behind an address, an interface, a namespace; what differs from before. Pure
seen.py           a dropped packet, by whom and why. Pure
pairs.py          what the kernel says of podlane's own drops, and what podlane says of them, made one. Pure
reasons.py        the kernel's reasons in words. Pure
drops.py          all of that together, until Ctrl-C
show.py           lines, JSON, the summary
packet.py, send.py    one packet through each program, and really sent
"""
