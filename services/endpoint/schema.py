"""The endpoint service's database: its schema, as the migrations that lead to it. Append only.

endpoints, addresses, log, ids, node_options     store.py          identities, documents   policystore.py
kvstore                                          common/kvstore    what is published
node                                             store.py          what tells this machine from one of its name
"""

from services.common.kvstore.embedded import SCHEMA

MIGRATIONS = (
    """
    CREATE TABLE endpoints (
        id INTEGER PRIMARY KEY,
        generation INTEGER NOT NULL UNIQUE,
        network TEXT NOT NULL,
        container_id TEXT NOT NULL,
        ifname TEXT NOT NULL,
        pod_namespace TEXT NOT NULL,
        pod_name TEXT NOT NULL,
        pod_uid TEXT NOT NULL,
        host_ifname TEXT NOT NULL,
        host_ifindex INTEGER NOT NULL,
        host_mac BLOB NOT NULL,
        pod_mac BLOB NOT NULL,
        netns_path TEXT NOT NULL,
        mtu INTEGER NOT NULL,
        pod_ifindex INTEGER NOT NULL,
        netns_inode INTEGER NOT NULL,
        labels TEXT NOT NULL,
        created REAL NOT NULL,
        identity INTEGER NOT NULL,
        stage TEXT NOT NULL CHECK (stage IN ('creating', 'created', 'disconnecting')),
        regeneration TEXT,
        UNIQUE (container_id, ifname, network)
    ) STRICT;
    CREATE TABLE addresses (
        endpoint_id INTEGER NOT NULL REFERENCES endpoints ON DELETE CASCADE,
        address BLOB NOT NULL UNIQUE,
        prefix_length INTEGER NOT NULL,
        gateway BLOB NOT NULL,
        range TEXT NOT NULL,
        PRIMARY KEY (endpoint_id, address)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE log (
        endpoint_id INTEGER NOT NULL REFERENCES endpoints ON DELETE CASCADE,
        number INTEGER NOT NULL,
        time REAL NOT NULL,
        type TEXT NOT NULL,
        code TEXT NOT NULL,
        message TEXT NOT NULL,
        state TEXT NOT NULL,
        PRIMARY KEY (endpoint_id, number)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE ids (last INTEGER NOT NULL, generation INTEGER NOT NULL) STRICT;
    INSERT INTO ids VALUES (0, 0);
    """,
    f"""
    ALTER TABLE endpoints ADD COLUMN options TEXT NOT NULL DEFAULT '{{}}';
    ALTER TABLE endpoints ADD COLUMN counters TEXT NOT NULL DEFAULT '[0, 0, 0, 0]';
    CREATE TABLE node_options (name TEXT PRIMARY KEY, enabled INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    {SCHEMA}
    """,
    """
    ALTER TABLE endpoints ADD COLUMN label_changes TEXT NOT NULL DEFAULT '{}';
    CREATE TABLE identities (number INTEGER PRIMARY KEY, labels TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE documents (
        kind INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        source TEXT NOT NULL,
        applied REAL NOT NULL,
        json TEXT NOT NULL,
        PRIMARY KEY (kind, namespace, name)
    ) STRICT, WITHOUT ROWID;
    """,
    """
    CREATE TABLE node (instance TEXT NOT NULL) STRICT;
    INSERT INTO node VALUES (lower(hex(randomblob(16))));
    """,
    """
    ALTER TABLE endpoints ADD COLUMN chained INTEGER NOT NULL DEFAULT 0;
    """,
)
