BEGIN TRANSACTION;
CREATE TABLE addresses (
        endpoint_id INTEGER NOT NULL REFERENCES endpoints ON DELETE CASCADE,
        address BLOB NOT NULL UNIQUE,
        prefix_length INTEGER NOT NULL,
        gateway BLOB NOT NULL,
        range TEXT NOT NULL,
        PRIMARY KEY (endpoint_id, address)
    ) STRICT, WITHOUT ROWID;
INSERT INTO "addresses" VALUES(1,X'0A2C0002',32,X'0A2C0001','10.44.0.0/24');
INSERT INTO "addresses" VALUES(1,X'FD000044000000000000000000000002',128,X'FD000044000000000000000000000001','fd00:44::/112');
INSERT INTO "addresses" VALUES(3,X'0A2C0004',32,X'0A2C0001','10.44.0.0/24');
INSERT INTO "addresses" VALUES(3,X'FD000044000000000000000000000004',128,X'FD000044000000000000000000000001','fd00:44::/112');
INSERT INTO "addresses" VALUES(4,X'0A2C0006',32,X'0A2C0001','10.44.0.0/24');
INSERT INTO "addresses" VALUES(4,X'FD000044000000000000000000000006',128,X'FD000044000000000000000000000001','fd00:44::/112');
CREATE TABLE documents (
        kind INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        source TEXT NOT NULL,
        applied REAL NOT NULL,
        json TEXT NOT NULL,
        PRIMARY KEY (kind, namespace, name)
    ) STRICT, WITHOUT ROWID;
INSERT INTO "documents" VALUES(1,'shop','others','',1.79561833575694847113e+09,'{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"others","namespace":"shop"},"spec":{"podSelector":{"matchLabels":{"app":"other"}},"policyTypes":["Ingress"]}}');
INSERT INTO "documents" VALUES(2,'','shop','',1.79561833575694847113e+09,'{"apiVersion":"v1","kind":"Namespace","metadata":{"labels":{"team":"a"},"name":"shop"}}');
INSERT INTO "documents" VALUES(3,'shop','other','',1.79561833575694847113e+09,'{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"app":"other"},"name":"other","namespace":"shop"}}');
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
        regeneration TEXT, options TEXT NOT NULL DEFAULT '{}', counters TEXT NOT NULL DEFAULT '[0, 0, 0, 0]', label_changes TEXT NOT NULL DEFAULT '{}',
        UNIQUE (container_id, ifname, network)
    ) STRICT;
INSERT INTO "endpoints" VALUES(1,1,'podlane','f76e8c49c3aa895fd5b9643c93868337c6a2a0c01fcec1fb2c4d482e2ca677d8','eth0','default','web-0','u1','lxcbd70e5f88058',4,X'962E3047F8E1',X'BEBFCAF20D18','/run/netns/pl-b1af81bc-p0',1500,2,4026532248,'{"app": "web", "k8s:tier": "front"}',1.79561833527012038231e+09,257,'created','{"level": 2, "reasons": ["identity 257: an operator has changed its labels"], "started": 1795618335.7620223, "phases": [["regenerate", 6335], ["regenerate:headers", 9], ["regenerate:template", 35], ["regenerate:observe", 553], ["regenerate:load", 1860], ["regenerate:policy", 89], ["regenerate:attach", 407], ["regenerate:host", 292], ["regenerate:maps", 121], ["regenerate:commit", 321]], "error": "", "programs": [["from_container", 308864, "4edad4d4063f7007", 1264, 1553, "tc ingress"], ["policy", 308862, "c3a2e36724170a93", 610, 792, "call_policy[1]"], ["to_container", 308863, "94be24b405184cf7", 415, 489, "tc egress"]], "config_hash": "e7bed8bfa944dcf1abe0e7aec70a4198ea4dffe04d536137c8d5bc33151b8dc2", "reload_reason": "the configuration has changed", "changes": ["the endpoint map did not lead 10.44.0.2 to endpoint 1", "the endpoint map did not lead fd00:44::2 to endpoint 1"]}','{"debug": true}','[4, 0, 0, 0]','{"release": "stable"}');
INSERT INTO "endpoints" VALUES(3,3,'podlane','16d541b8b12ce2059ace4a3049384e69f6a9098976338fbc388aace85a2cd73b','eth0','default','web-2','u1','lxc67bef2492ed2',6,X'6E08CC59BEEF',X'5ECF83A71058','/run/netns/pl-b1af81bc-p2',1500,2,4026532386,'{"app": "web", "k8s:tier": "front"}',1.79561833531033086773e+09,256,'disconnecting','{"level": 2, "reasons": ["config: policy-accounting on"], "started": 1795618335.7224524, "phases": [["regenerate", 6994], ["regenerate:headers", 134], ["regenerate:template", 17], ["regenerate:observe", 263], ["regenerate:load", 3485], ["regenerate:policy", 56], ["regenerate:attach", 443], ["regenerate:host", 213], ["regenerate:maps", 32], ["regenerate:commit", 227]], "error": "", "programs": [["from_container", 308859, "d35f0f398ccf2a69", 1239, 1462, "tc ingress"], ["policy", 308860, "9284b563612c5fdd", 600, 771, "call_policy[3]"], ["to_container", 308861, "7742f5f93d5a6e02", 407, 476, "tc egress"]], "config_hash": "75c15afc7879724dc09ff9900054727ca2659837e36b812f232948b15043a8a3", "reload_reason": "the configuration has changed", "changes": []}','{}','[2, 0, 0, 0]','{}');
INSERT INTO "endpoints" VALUES(4,4,'podlane','46afea8ae26f25b073922941a967adef3c4d59c9335c24929e3559d350bb4a27','eth0','default','web-3','u1','lxc768108357548',7,X'6AC90B112AF7',X'FE9A343A572A','/run/netns/pl-b1af81bc-p3',1500,2,4026532455,'{"app": "web", "k8s:tier": "front"}',1.79561833580006432534e+09,256,'creating',NULL,'{}','[0, 0, 0, 0]','{}');
CREATE TABLE identities (number INTEGER PRIMARY KEY, labels TEXT NOT NULL UNIQUE) STRICT;
INSERT INTO "identities" VALUES(256,'k8s:app=web;k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=default;k8s:io.kubernetes.pod.namespace=default;k8s:tier=front;');
INSERT INTO "identities" VALUES(257,'k8s:app=web;k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=default;k8s:io.kubernetes.pod.namespace=default;k8s:release=stable;k8s:tier=front;');
CREATE TABLE ids (last INTEGER NOT NULL, generation INTEGER NOT NULL) STRICT;
INSERT INTO "ids" VALUES(4,4);
CREATE TABLE kvstore (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL,
        revision INTEGER NOT NULL UNIQUE,
        written REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
INSERT INTO "kvstore" VALUES('podlane/state/endpoints/v1/recorded/1','{"addresses": ["10.44.0.2", "fd00:44::2"], "attachment": {"container_id": "f76e8c49c3aa895fd5b9643c93868337c6a2a0c01fcec1fb2c4d482e2ca677d8", "ifname": "eth0", "network": "podlane"}, "generation": 1, "id": 1, "identity": {"id": 257, "labels": {"app": "web", "k8s:tier": "front"}}, "node": "recorded", "pod": {"name": "web-0", "namespace": "default", "uid": "u1"}, "state": "ready"}',4,1.79561833576767539977e+09);
INSERT INTO "kvstore" VALUES('podlane/state/endpoints/v1/recorded/3','{"addresses": ["10.44.0.4", "fd00:44::4"], "attachment": {"container_id": "16d541b8b12ce2059ace4a3049384e69f6a9098976338fbc388aace85a2cd73b", "ifname": "eth0", "network": "podlane"}, "generation": 3, "id": 3, "identity": {"id": 256, "labels": {"app": "web", "k8s:tier": "front"}}, "node": "recorded", "pod": {"name": "web-2", "namespace": "default", "uid": "u1"}, "state": "ready"}',3,1.79561833532026267051e+09);
CREATE TABLE kvstore_revision (last INTEGER NOT NULL) STRICT;
INSERT INTO "kvstore_revision" VALUES(5);
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
INSERT INTO "log" VALUES(1,1,1.79561833527039408685e+09,'other','ok','identity 256 (k8s:app=web,k8s:io.kubernetes.pod.namespace=default,k8s:tier=front)','waiting-for-identity');
INSERT INTO "log" VALUES(1,2,1.79561833528785705568e+09,'bpf','ok','regenerated at level rewrite+load (initial build on endpoint creation): the endpoint has no programs yet','regenerating');
INSERT INTO "log" VALUES(1,3,1.7956183353200173378e+09,'other','ok','options set: debug on','ready');
INSERT INTO "log" VALUES(1,4,1.79561833552022433275e+09,'bpf','ok','regenerated at level rewrite+load (endpoint config: debug on): the configuration has changed','regenerating');
INSERT INTO "log" VALUES(1,5,1.79561833572230577461e+09,'bpf','ok','regenerated at level rewrite+load (config: policy-accounting on): the configuration has changed','regenerating');
INSERT INTO "log" VALUES(1,6,1.79561833576141738886e+09,'policy','ok','identity 257 (k8s:app=web,k8s:io.kubernetes.pod.namespace=default,k8s:release=stable,k8s:tier=front), it was 256: an operator has changed its labels','ready');
INSERT INTO "log" VALUES(1,7,1.79561833576838397979e+09,'bpf','ok','regenerated at level rewrite+load (identity 257: an operator has changed its labels): the configuration has changed; the endpoint map did not lead 10.44.0.2 to endpoint 1; the endpoint map did not lead fd00:44::2 to endpoint 1','regenerating');
INSERT INTO "log" VALUES(3,1,1.79561833531047153472e+09,'other','ok','identity 256 (k8s:app=web,k8s:io.kubernetes.pod.namespace=default,k8s:tier=front)','waiting-for-identity');
INSERT INTO "log" VALUES(3,2,1.79561833531692457196e+09,'bpf','ok','regenerated at level rewrite+load (initial build on endpoint creation): the endpoint has no programs yet','regenerating');
INSERT INTO "log" VALUES(3,3,1.7956183357294650078e+09,'bpf','ok','regenerated at level rewrite+load (config: policy-accounting on): the configuration has changed','regenerating');
INSERT INTO "log" VALUES(4,1,1.79561833580023956294e+09,'other','ok','identity 256 (k8s:app=web,k8s:io.kubernetes.pod.namespace=default,k8s:tier=front)','waiting-for-identity');
CREATE TABLE node_options (name TEXT PRIMARY KEY, enabled INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO "node_options" VALUES('policy-accounting',1);
COMMIT;
PRAGMA user_version = 3;
