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
INSERT INTO "documents" VALUES(1,'shop','others','',1.79582213358106470104e+09,'{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"others","namespace":"shop"},"spec":{"podSelector":{"matchLabels":{"app":"other"}},"policyTypes":["Ingress"]}}');
INSERT INTO "documents" VALUES(2,'','shop','',1.79582213358106470104e+09,'{"apiVersion":"v1","kind":"Namespace","metadata":{"labels":{"team":"a"},"name":"shop"}}');
INSERT INTO "documents" VALUES(3,'shop','other','',1.79582213358106470104e+09,'{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"app":"other"},"name":"other","namespace":"shop"}}');
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
INSERT INTO "endpoints" VALUES(1,1,'podlane','7ed72ba38d575d193f11a60e120bb7c8eb301778fe32a6b15ac2adb77ddc4a07','eth0','default','web-0','u1','lxc776ad358c653',4,X'E6C1AF559A66',X'22A20E00861C','/run/netns/pl-1d2f9e34-p0',1500,2,4026533319,'{"app": "web", "k8s:tier": "front"}',1.79582213137473464012e+09,257,'created','{"level": 2, "reasons": ["identity 257: an operator has changed its labels"], "started": 1795822133.5894978, "phases": [["regenerate", 15332], ["regenerate:headers", 27], ["regenerate:template", 50], ["regenerate:observe", 711], ["regenerate:load", 6860], ["regenerate:policy", 174], ["regenerate:attach", 967], ["regenerate:host", 612], ["regenerate:maps", 359], ["regenerate:commit", 595]], "error": "", "programs": [["from_container", 12038, "07d8ee4c39e82b9c", 1296, 1558, "tc ingress"], ["policy", 12037, "2bada63feb7726c1", 638, 807, "call_policy[1]"], ["to_container", 12039, "d962ebcb1607b15c", 415, 489, "tc egress"]], "config_hash": "3aa9407dbd640e41cfb3aace81f8e06be553d44fa9016b35c81b2cf70cf33f95", "reload_reason": "the configuration has changed", "changes": ["the endpoint map did not lead 10.44.0.2 to endpoint 1", "the endpoint map did not lead fd00:44::2 to endpoint 1"]}','{"debug": true}','[4, 0, 0, 0]','{"release": "stable"}');
INSERT INTO "endpoints" VALUES(3,3,'podlane','f8325bb2fad0ff0b23718988f44d1ef597d29438cafdc30a10835a226cfd2956','eth0','default','web-2','u1','lxcb570b6329e91',6,X'56272AF53A18',X'6EE677228C60','/run/netns/pl-1d2f9e34-p2',1500,2,4026533457,'{"app": "web", "k8s:tier": "front"}',1.79582213172257089614e+09,256,'disconnecting','{"level": 2, "reasons": ["config: policy-accounting on"], "started": 1795822133.453349, "phases": [["regenerate", 32779], ["regenerate:headers", 585], ["regenerate:template", 68], ["regenerate:observe", 6214], ["regenerate:load", 7619], ["regenerate:policy", 255], ["regenerate:attach", 6829], ["regenerate:host", 1045], ["regenerate:maps", 137], ["regenerate:commit", 999]], "error": "", "programs": [["from_container", 12032, "18f045e76c04ce93", 1270, 1549, "tc ingress"], ["policy", 12030, "0b36e08e859db939", 631, 768, "call_policy[3]"], ["to_container", 12031, "da09ef94af204c30", 407, 476, "tc egress"]], "config_hash": "ee143c7d79bb0f1064c546485bdfe34fce2f34b263d67b73689b16750b76f148", "reload_reason": "the configuration has changed", "changes": []}','{}','[2, 0, 0, 0]','{}');
INSERT INTO "endpoints" VALUES(4,4,'podlane','432aaaaf5e532a72e3180949b11f9c0a9fb2eb972ddb9f0a42bbf3b914f0e136','eth0','default','web-3','u1','lxc072565a9eb2f',7,X'5EFFF14C2731',X'3612E3943C16','/run/netns/pl-1d2f9e34-p3',1500,2,4026533526,'{"app": "web", "k8s:tier": "front"}',1.79582213367895340916e+09,256,'creating',NULL,'{}','[0, 0, 0, 0]','{}');
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
INSERT INTO "kvstore" VALUES('podlane/state/endpoints/v1/recorded/1','{"addresses": ["10.44.0.2", "fd00:44::2"], "attachment": {"container_id": "7ed72ba38d575d193f11a60e120bb7c8eb301778fe32a6b15ac2adb77ddc4a07", "ifname": "eth0", "network": "podlane"}, "generation": 1, "id": 1, "identity": {"id": 257, "labels": {"k8s:app": "web", "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name": "default", "k8s:io.kubernetes.pod.namespace": "default", "k8s:release": "stable", "k8s:tier": "front"}}, "node": "recorded", "pod": {"name": "web-0", "namespace": "default", "uid": "u1"}, "state": "ready"}',4,1.79582213361891126633e+09);
INSERT INTO "kvstore" VALUES('podlane/state/endpoints/v1/recorded/3','{"addresses": ["10.44.0.4", "fd00:44::4"], "attachment": {"container_id": "f8325bb2fad0ff0b23718988f44d1ef597d29438cafdc30a10835a226cfd2956", "ifname": "eth0", "network": "podlane"}, "generation": 3, "id": 3, "identity": {"id": 256, "labels": {"k8s:app": "web", "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name": "default", "k8s:io.kubernetes.pod.namespace": "default", "k8s:tier": "front"}}, "node": "recorded", "pod": {"name": "web-2", "namespace": "default", "uid": "u1"}, "state": "ready"}',3,1.79582213174830698969e+09);
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
INSERT INTO "log" VALUES(1,1,1.79582213137633275989e+09,'other','ok','identity 256 (k8s:app=web,k8s:io.kubernetes.pod.namespace=default,k8s:tier=front)','waiting-for-identity');
INSERT INTO "log" VALUES(1,2,1.79582213165900754928e+09,'bpf','ok','regenerated at level rewrite+load (initial build on endpoint creation): the endpoint has no programs yet','regenerating');
INSERT INTO "log" VALUES(1,3,1.79582213175265240664e+09,'other','ok','options set: debug on','ready');
INSERT INTO "log" VALUES(1,4,1.79582213238786888125e+09,'bpf','ok','regenerated at level rewrite+load (endpoint config: debug on): the configuration has changed','regenerating');
INSERT INTO "log" VALUES(1,5,1.79582213352824234964e+09,'bpf','ok','regenerated at level rewrite+load (config: policy-accounting on): the configuration has changed','regenerating');
INSERT INTO "log" VALUES(1,6,1.79582213358851766581e+09,'policy','ok','identity 257 (k8s:app=web,k8s:io.kubernetes.pod.namespace=default,k8s:release=stable,k8s:tier=front), it was 256: an operator has changed its labels','ready');
INSERT INTO "log" VALUES(1,7,1.7958221336048772335e+09,'bpf','ok','regenerated at level rewrite+load (identity 257: an operator has changed its labels): the configuration has changed; the endpoint map did not lead 10.44.0.2 to endpoint 1; the endpoint map did not lead fd00:44::2 to endpoint 1','regenerating');
INSERT INTO "log" VALUES(3,1,1.79582213172305178638e+09,'other','ok','identity 256 (k8s:app=web,k8s:io.kubernetes.pod.namespace=default,k8s:tier=front)','waiting-for-identity');
INSERT INTO "log" VALUES(3,2,1.79582213174114871021e+09,'bpf','ok','regenerated at level rewrite+load (initial build on endpoint creation): the endpoint has no programs yet','regenerating');
INSERT INTO "log" VALUES(3,3,1.79582213348620462422e+09,'bpf','ok','regenerated at level rewrite+load (config: policy-accounting on): the configuration has changed','regenerating');
INSERT INTO "log" VALUES(4,1,1.79582213367927813526e+09,'other','ok','identity 256 (k8s:app=web,k8s:io.kubernetes.pod.namespace=default,k8s:tier=front)','waiting-for-identity');
CREATE TABLE node (instance TEXT NOT NULL) STRICT;
INSERT INTO "node" VALUES('9562b409b5e1f7e0a851dc202421f610');
CREATE TABLE node_options (name TEXT PRIMARY KEY, enabled INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO "node_options" VALUES('policy-accounting',1);
COMMIT;
PRAGMA user_version = 4;
