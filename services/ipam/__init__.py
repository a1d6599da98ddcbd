"""ipam: who holds which address on this node.

servicer.py    messages in, messages out
allocator.py   the verbs: one owner at a time, on disk before answered
ledger.py      pure: who holds what, which reservation expires next
pool.py        pure: which address comes next
ranges.py      pure: the configured pools, checked; what can be given out
model.py       pure: the nouns
store.py       the rows in SQLite
"""
