"""The other nodes: what this one tells them through the kvstore, and what it takes from there.

    records.py         values of keys; pure
    registration.py    this node's own key; two nodes of one name        controller `register-node`
    identitybook.py    which numbers are known and used here; pure
    identities.py      numbers of labels that the cluster shares         controller `sync-identities`
    identitygc.py      … and that no node uses any more                  controller `kvstore-identity-gc`
    addresses.py       whose addresses our endpoints have                controller `sync-ip-identity` of each
    ipcache.py         who is behind other nodes' addresses; pure
    follow.py          watches nodes and addresses                       controllers `sync-ipcache`, `sync-nodes`
    documents.py       policies that hold on all nodes                   controller `policy-kvstore`

What holds whatever happens to the store:

- **Packets need no store.** What was taken from it stays in the kernel until the store says otherwise, and a restart
  during an outage touches nothing of it.
- **An address that isn't known yet is the world's**, and never more. So whoever publishes can be late and nobody can be
  early.
- **What is ours we know better.** A key of ours that somebody changed or removed is put again.
- **A number means one set of labels.** Where this node and the cluster disagree, this node gives in.
"""
