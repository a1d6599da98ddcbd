"""What happens on this node, told as it happens and for a while after; and who talks to whom.

    loader's events, in the background ──► names ──┐
    endpoints' moves and notes ──► changes.py ─────┼──► history.py ──► whoever asks for the last ones
    controllers that fail or recover ──────────────┘         └───────► hub.py ──► whoever watches ◄── loader's events,
                                                                                  as many as one can read
    drops, as they are told ──► flowtable.py ──┐
    what flows have counted (loader) ──────────┴──► joined, filtered, ordered ──► who talks to whom

The middle (history, filters, flowtable) is pure.
"""
