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
        regeneration TEXT, options TEXT NOT NULL DEFAULT '{}', counters TEXT NOT NULL DEFAULT '[0, 0, 0, 0]',
        UNIQUE (container_id, ifname, network)
    ) STRICT;
INSERT INTO "endpoints" VALUES(1,1,'podlane','cc57691c675436fd9fc06a00e82daaaab5d0c5c3b29fe9638b83b58719e8e0bf','eth0','default','web-0','u1','lxc79531326f088',4,X'EE9A6A244893',X'623FCD136115','/run/netns/pl-bb14dc15-p0',1500,2,4026532319,'{"k8s:tier": "front", "app": "web"}',1795612760.26045,5,'created','{"level": 2, "reasons": ["config: policy-accounting on"], "started": 1795612760.5162363, "phases": [["regenerate", 304413], ["regenerate:headers", 131], ["regenerate:template", 297190], ["regenerate:observe", 304], ["regenerate:load", 4070], ["regenerate:policy", 81], ["regenerate:attach", 346], ["regenerate:host", 241], ["regenerate:maps", 35], ["regenerate:commit", 236]], "error": "", "programs": [["from_container", 276321, "d296e74e2694ab1b", 1212, 1529, "tc ingress"], ["policy", 276322, "fa14f8bdee0f24e6", 586, 786, "call_policy[1]"], ["to_container", 276323, "afe48c4b2d9283e7", 406, 479, "tc egress"]], "config_hash": "a9a782000a6ff5c38ec9f09a448c4917033bc42596d365516d5ccff18d4e6b97", "reload_reason": "the configuration has changed", "changes": []}','{"debug": true}','[3, 0, 0, 0]');
INSERT INTO "endpoints" VALUES(3,3,'podlane','ffa31167d57949c1777f3b5a9289dbc6c464b5337bcffdc6932a62c99310af02','eth0','default','web-2','u1','lxc8d042b2f4ff9',6,X'0E2E3FC4612E',X'FA1C21F19A17','/run/netns/pl-bb14dc15-p2',1500,2,4026532524,'{"k8s:tier": "front", "app": "web"}',1.79561276031545138357e+09,5,'disconnecting','{"level": 2, "reasons": ["config: policy-accounting on"], "started": 1795612760.755407, "phases": [["regenerate", 6127], ["regenerate:headers", 131], ["regenerate:template", 17], ["regenerate:observe", 533], ["regenerate:load", 2890], ["regenerate:policy", 68], ["regenerate:attach", 278], ["regenerate:host", 268], ["regenerate:maps", 33], ["regenerate:commit", 232]], "error": "", "programs": [["from_container", 276317, "e67cd44fc83ccd5b", 1187, 1438, "tc ingress"], ["policy", 276318, "f010a569286ff6f4", 576, 765, "call_policy[3]"], ["to_container", 276319, "621ccdafabee76cf", 398, 461, "tc egress"]], "config_hash": "5344c0f19db0d344f5156dfa3ba24d832643f7b1d89f47c268bbfa7c1da97aca", "reload_reason": "the configuration has changed", "changes": []}','{}','[2, 0, 0, 0]');
INSERT INTO "endpoints" VALUES(4,4,'podlane','67da93a8cce453725a7accdd9931cd4c548c2112b0355463bef816c72a5c0aa3','eth0','default','web-3','u1','lxc53f058a45bc7',7,X'521D6D0BA52C',X'0EA538A19D39','/run/netns/pl-bb14dc15-p3',1500,2,4026532593,'{"k8s:tier": "front", "app": "web"}',1.79561276085394668573e+09,5,'creating',NULL,'{}','[0, 0, 0, 0]');
CREATE TABLE ids (last INTEGER NOT NULL, generation INTEGER NOT NULL) STRICT;
INSERT INTO "ids" VALUES(4,4);
CREATE TABLE kvstore (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL,
        revision INTEGER NOT NULL UNIQUE,
        written REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
INSERT INTO "kvstore" VALUES('podlane/state/endpoints/v1/recorded/1','{"addresses": ["10.44.0.2", "fd00:44::2"], "attachment": {"container_id": "cc57691c675436fd9fc06a00e82daaaab5d0c5c3b29fe9638b83b58719e8e0bf", "ifname": "eth0", "network": "podlane"}, "generation": 1, "id": 1, "identity": {"id": 5, "labels": {"app": "web", "k8s:tier": "front"}}, "node": "recorded", "pod": {"name": "web-0", "namespace": "default", "uid": "u1"}, "state": "ready"}',1,1.79561276029421114917e+09);
INSERT INTO "kvstore" VALUES('podlane/state/endpoints/v1/recorded/3','{"addresses": ["10.44.0.4", "fd00:44::4"], "attachment": {"container_id": "ffa31167d57949c1777f3b5a9289dbc6c464b5337bcffdc6932a62c99310af02", "ifname": "eth0", "network": "podlane"}, "generation": 3, "id": 3, "identity": {"id": 5, "labels": {"app": "web", "k8s:tier": "front"}}, "node": "recorded", "pod": {"name": "web-2", "namespace": "default", "uid": "u1"}, "state": "ready"}',3,1.79561276032499885554e+09);
CREATE TABLE kvstore_revision (last INTEGER NOT NULL) STRICT;
INSERT INTO "kvstore_revision" VALUES(4);
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
INSERT INTO "log" VALUES(1,1,1795612760.26045,'other','ok','identity 5 (reserved:init), as all endpoints','waiting-for-identity');
INSERT INTO "log" VALUES(1,2,1.79561276028662371632e+09,'bpf','ok','regenerated at level rewrite+load (initial build on endpoint creation): the endpoint has no programs yet','regenerating');
INSERT INTO "log" VALUES(1,3,1.79561276032480835913e+09,'other','ok','options set: debug on','ready');
INSERT INTO "log" VALUES(1,4,1.79561276051074719434e+09,'bpf','ok','regenerated at level rewrite+load (endpoint config: debug on): the configuration has changed','regenerating');
INSERT INTO "log" VALUES(1,5,1.79561276082067584987e+09,'bpf','ok','regenerated at level rewrite+load (config: policy-accounting on): the configuration has changed','regenerating');
INSERT INTO "log" VALUES(3,1,1.79561276031545138357e+09,'other','ok','identity 5 (reserved:init), as all endpoints','waiting-for-identity');
INSERT INTO "log" VALUES(3,2,1.79561276032213306425e+09,'bpf','ok','regenerated at level rewrite+load (initial build on endpoint creation): the endpoint has no programs yet','regenerating');
INSERT INTO "log" VALUES(3,3,1.7956127607615537643e+09,'bpf','ok','regenerated at level rewrite+load (config: policy-accounting on): the configuration has changed','regenerating');
INSERT INTO "log" VALUES(4,1,1.79561276085394668573e+09,'other','ok','identity 5 (reserved:init), as all endpoints','waiting-for-identity');
CREATE TABLE node_options (name TEXT PRIMARY KEY, enabled INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO "node_options" VALUES('policy-accounting',1);
COMMIT;
PRAGMA user_version = 2;
