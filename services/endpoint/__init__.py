"""endpoint: a pod's endpoint from CNI ADD to CNI DEL, and over every restart in between.

servicer.py      messages in, messages out; `messages.py` and `peer_messages.py` turn one into the other
manager.py       the verbs on the endpoints of this node, one at a time per attachment
creating.py      how an endpoint comes to be; `removal.py` how it goes, at once or in the background
operate.py       what operators ask: regenerate, switches
flow.py          create and delete as steps, each with its undo
events.py        one queue per endpoint; regenerations in it fold together
regeneration.py  what a regeneration event does, and the controller that tries again
publisher.py     the controller that keeps the endpoint's record in the kvstore
managed.py       an endpoint while it lives here; `registry.py` finds it, `watch.py` tells of it
node.py          keeps the loader configured and says when the node takes endpoints
restore.py       compares what is recorded with what is there, and mends
gc.py            the controller that searches for garbage; `sweep.py` looks again and removes, `gcmessages.py` tells
deletions.py     the controller that carries out what CNI DEL has journalled
peers.py         ipam and the loader as two Protocols; `ipampeer.py` and `loaderpeer.py` have them by gRPC
store.py         the rows in SQLite
model.py observed.py plan.py options.py health.py ids.py garbage.py findings.py    pure: nouns, states, decisions
policy/          pure: identities, NetworkPolicy, and what both make of a policy map
"""
