"""ipam: who holds which address on this node.

servicer.py    messages in, messages out
allocator.py   the verbs: one owner at a time, on disk before answered
ledger.py      pure: who holds what, which reservation expires next
pool.py        pure: which address comes next
ranges.py      pure: what can be given out, and who the gateway is; `poolplan.py` makes that of the settings
model.py       pure: the nouns
store.py       the rows in SQLite

Ranges that the node claims of a cluster's, where a pool says so:

clusterpool.py      the controller: claims ahead of need, gives back
claimkeeper.py      the steps of one claim: kvstore, disk, ledger
claims.py           pure: the states of a claim, when there are too few or too many
claimchoice.py      pure: which range is next, who holds what
claimoperations.py  what operators do to claims
claimstore.py       the rows
claiming.py         their assembly
supply.py           what the allocator knows of all that
"""
