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
INSERT INTO "documents" VALUES(1,'shop','others','',1.79585472883745026588e+09,'{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"others","namespace":"shop"},"spec":{"podSelector":{"matchLabels":{"app":"other"}},"policyTypes":["Ingress"]}}');
INSERT INTO "documents" VALUES(2,'','shop','',1.79585472883745026588e+09,'{"apiVersion":"v1","kind":"Namespace","metadata":{"labels":{"team":"a"},"name":"shop"}}');
INSERT INTO "documents" VALUES(3,'shop','other','',1.79585472883745026588e+09,'{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"app":"other"},"name":"other","namespace":"shop"}}');
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
        regeneration TEXT, options TEXT NOT NULL DEFAULT '{}', counters TEXT NOT NULL DEFAULT '[0, 0, 0, 0]', label_changes TEXT NOT NULL DEFAULT '{}', chained INTEGER NOT NULL DEFAULT 0,
        UNIQUE (container_id, ifname, network)
    ) STRICT;
INSERT INTO "endpoints" VALUES(1,1,'podlane','67791b7665e2d3ce5f2e492ee51441b33be2fed81e56c79169f01bc087095d6d','eth0','default','web-0','u1','lxcd47b9ca76838',4,X'52C4BC70ED52',X'4EC65E5516F6','/run/netns/pl-a9c2b0ea-p0',1500,2,4026532885,'{"k8s:tier": "front", "app": "web"}',1.79585472433260655397e+09,257,'created','{"level": 2, "reasons": ["identity 257: an operator has changed its labels"], "started": 1795854728.8518276, "phases": [["regenerate", 33922], ["regenerate:headers", 38], ["regenerate:template", 59], ["regenerate:observe", 1007], ["regenerate:load", 12718], ["regenerate:policy", 283], ["regenerate:attach", 8858], ["regenerate:host", 773], ["regenerate:maps", 621], ["regenerate:commit", 755]], "error": "", "programs": [["from_container", 159394, "1661efa80acf4f32", 1313, 1589, "tc ingress"], ["policy", 159392, "2bada63feb7726c1", 638, 807, "call_policy[1]"], ["to_container", 159393, "bdcdd1a91c3d523e", 430, 509, "tc egress"]], "config_hash": "0efe241a234bed17c03c48590b1ce7805e4f5751df92fa51ba095c0fcd2b4c80", "reload_reason": "the configuration has changed", "changes": ["the endpoint map did not lead 10.44.0.2 to endpoint 1", "the endpoint map did not lead fd00:44::2 to endpoint 1"]}','{"debug": true}','[4, 0, 0, 0]','{"release": "stable"}',0);
INSERT INTO "endpoints" VALUES(3,3,'podlane','248e904d01131519144f4d1e4ed59dc2ec5110f054f2eb39120de9485a97598b','eth0','default','web-2','u1','lxc67e22caa5c55',6,X'BAAF0A7B13BB',X'C243FCCD0B18','/run/netns/pl-a9c2b0ea-p2',1500,2,4026533023,'{"k8s:tier": "front", "app": "web"}',1.79585472447656750681e+09,256,'disconnecting','{"level": 2, "reasons": ["config: policy-accounting on"], "started": 1795854728.6890285, "phases": [["regenerate", 75098], ["regenerate:headers", 485], ["regenerate:template", 67], ["regenerate:observe", 4379], ["regenerate:load", 17113], ["regenerate:policy", 353], ["regenerate:attach", 7425], ["regenerate:host", 5283], ["regenerate:maps", 178], ["regenerate:commit", 939]], "error": "", "programs": [["from_container", 159387, "4bb0a6eb9e3436c2", 1287, 1542, "tc ingress"], ["policy", 159385, "0b36e08e859db939", 631, 768, "call_policy[3]"], ["to_container", 159386, "77f8ea7d839c2693", 422, 496, "tc egress"]], "config_hash": "b4d287cdf852c4ea10c636909b6c0a6d384c161f9cfa25440ece6b1e4c8715aa", "reload_reason": "the configuration has changed", "changes": []}','{}','[2, 0, 0, 0]','{}',0);
INSERT INTO "endpoints" VALUES(4,4,'podlane','a4f77639d322e979b1ab021fae0868e028d977388f31702fd84b5f62ba9d9a43','eth0','default','web-3','u1','lxce756c49fe34d',7,X'4A760AF2B7CF',X'A29E1223B55E','/run/netns/pl-a9c2b0ea-p3',1500,2,4026533092,'{"k8s:tier": "front", "app": "web"}',1.79585472901767969136e+09,256,'creating',NULL,'{}','[0, 0, 0, 0]','{}',0);
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
INSERT INTO "kvstore" VALUES('podlane/state/endpoints/v1/recorded/1','{"addresses": ["10.44.0.2", "fd00:44::2"], "attachment": {"container_id": "67791b7665e2d3ce5f2e492ee51441b33be2fed81e56c79169f01bc087095d6d", "ifname": "eth0", "network": "podlane"}, "generation": 1, "id": 1, "identity": {"id": 257, "labels": {"k8s:app": "web", "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name": "default", "k8s:io.kubernetes.pod.namespace": "default", "k8s:release": "stable", "k8s:tier": "front"}}, "node": "recorded", "pod": {"name": "web-0", "namespace": "default", "uid": "u1"}, "state": "ready"}',4,1.79585472890363311761e+09);
INSERT INTO "kvstore" VALUES('podlane/state/endpoints/v1/recorded/3','{"addresses": ["10.44.0.4", "fd00:44::4"], "attachment": {"container_id": "248e904d01131519144f4d1e4ed59dc2ec5110f054f2eb39120de9485a97598b", "ifname": "eth0", "network": "podlane"}, "generation": 3, "id": 3, "identity": {"id": 256, "labels": {"k8s:app": "web", "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name": "default", "k8s:io.kubernetes.pod.namespace": "default", "k8s:tier": "front"}}, "node": "recorded", "pod": {"name": "web-2", "namespace": "default", "uid": "u1"}, "state": "ready"}',3,1.79585472450792908672e+09);
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
INSERT INTO "log" VALUES(1,1,1.79585472433463072777e+09,'other','ok','identity 256 (k8s:app=web,k8s:io.kubernetes.pod.namespace=default,k8s:tier=front)','waiting-for-identity');
INSERT INTO "log" VALUES(1,2,1.79585472436095285411e+09,'bpf','ok','regenerated at level rewrite+load (initial build on endpoint creation): the endpoint has no programs yet','regenerating');
INSERT INTO "log" VALUES(1,3,1.79585472451585149763e+09,'other','ok','options set: debug on','ready');
INSERT INTO "log" VALUES(1,4,1.79585472557853484147e+09,'bpf','ok','regenerated at level rewrite+load (endpoint config: debug on): the configuration has changed','regenerating');
INSERT INTO "log" VALUES(1,5,1.79585472880524063109e+09,'bpf','ok','regenerated at level rewrite+load (config: policy-accounting on): the configuration has changed','regenerating');
INSERT INTO "log" VALUES(1,6,1.7958547288506183624e+09,'policy','ok','identity 257 (k8s:app=web,k8s:io.kubernetes.pod.namespace=default,k8s:release=stable,k8s:tier=front), it was 256: an operator has changed its labels','ready');
INSERT INTO "log" VALUES(1,7,1.79585472888582420346e+09,'bpf','ok','regenerated at level rewrite+load (identity 257: an operator has changed its labels): the configuration has changed; the endpoint map did not lead 10.44.0.2 to endpoint 1; the endpoint map did not lead fd00:44::2 to endpoint 1','regenerating');
INSERT INTO "log" VALUES(3,1,1.79585472447716498374e+09,'other','ok','identity 256 (k8s:app=web,k8s:io.kubernetes.pod.namespace=default,k8s:tier=front)','waiting-for-identity');
INSERT INTO "log" VALUES(3,2,1.79585472449926877025e+09,'bpf','ok','regenerated at level rewrite+load (initial build on endpoint creation): the endpoint has no programs yet','regenerating');
INSERT INTO "log" VALUES(3,3,1.79585472876420330998e+09,'bpf','ok','regenerated at level rewrite+load (config: policy-accounting on): the configuration has changed','regenerating');
INSERT INTO "log" VALUES(4,1,1.79585472901805448531e+09,'other','ok','identity 256 (k8s:app=web,k8s:io.kubernetes.pod.namespace=default,k8s:tier=front)','waiting-for-identity');
CREATE TABLE node (instance TEXT NOT NULL) STRICT;
INSERT INTO "node" VALUES('20b7cae6d36e434f2deb3b86b5a0a495');
CREATE TABLE node_options (name TEXT PRIMARY KEY, enabled INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO "node_options" VALUES('policy-accounting',1);
COMMIT;
PRAGMA user_version = 5;
