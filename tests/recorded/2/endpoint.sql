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
INSERT INTO "endpoints" VALUES(1,1,'podlane','ba1f7d468eb626272f49bbecb751062a52734a01a9c6e71258433d083dec4204','eth0','default','web-0','u1','lxc77640d7e9aa1',4,X'7A22CC4515D1',X'FECED065FBFD','/run/netns/pl-b77f17ff-p0',1500,2,4026532253,'{"app": "web", "k8s:tier": "front"}',1.79560164161267089844e+09,5,'created','{"level": 2, "reasons": ["config: policy-accounting on"], "started": 1795601642.661604, "phases": [["regenerate", 1014280], ["regenerate:headers", 205], ["regenerate:template", 934877], ["regenerate:observe", 13116], ["regenerate:load", 17864], ["regenerate:policy", 77], ["regenerate:attach", 31227], ["regenerate:host", 369], ["regenerate:maps", 74], ["regenerate:commit", 3541]], "error": "", "programs": [["from_container", 102477, "a42aa1db45c0381a", 796, 935, "tc ingress"], ["policy", 102478, "9fa4c10c72ac3319", 183, 213, "call_policy[1]"], ["to_container", 102480, "5caca68352b5dad5", 421, 539, "tc egress"]], "config_hash": "448e734adf04a205e7de45429f4aa589eeddd700da92360b1fddd7ab17593a8c", "reload_reason": "the configuration has changed", "changes": []}','{"debug": true}','[3, 0, 0, 0]');
INSERT INTO "endpoints" VALUES(3,3,'podlane','d60f80af2b47805c810f591550c02be213120366940715db43368924ba7864fd','eth0','default','web-2','u1','lxccc38c983208d',6,X'B2513ED5ABAD',X'BA26FFBA6DAC','/run/netns/pl-b77f17ff-p2',1500,2,4026534002,'{"app": "web", "k8s:tier": "front"}',1.79560164208336663247e+09,5,'disconnecting','{"level": 2, "reasons": ["config: policy-accounting on"], "started": 1795601643.676127, "phases": [["regenerate", 40236], ["regenerate:headers", 257], ["regenerate:template", 24775], ["regenerate:observe", 4579], ["regenerate:load", 3168], ["regenerate:policy", 51], ["regenerate:attach", 1164], ["regenerate:host", 806], ["regenerate:maps", 44], ["regenerate:commit", 289]], "error": "", "programs": [["from_container", 102488, "67704c5a1474ce50", 769, 902, "tc ingress"], ["to_container", 102489, "5f4d542a424f02ab", 414, 479, "tc egress"], ["policy", 102490, "2dfa0e5c2f32037d", 176, 198, "call_policy[3]"]], "config_hash": "21175152ce82f2a45dc28464489324c36988bb46182ecfda8d9b5c32bbdba33e", "reload_reason": "the configuration has changed", "changes": []}','{}','[2, 0, 0, 0]');
INSERT INTO "endpoints" VALUES(4,4,'podlane','589ed6bcfbff7a214dceeaa2734f27bb78acc0833a84ef5af0283544b29791e3','eth0','default','web-3','u1','lxc93edc89e216c',7,X'D6AE43C8BE27',X'02F0D234B3F6','/run/netns/pl-b77f17ff-p3',1500,2,4026534145,'{"app": "web", "k8s:tier": "front"}',1.79560164377372336388e+09,5,'creating',NULL,'{}','[0, 0, 0, 0]');
CREATE TABLE ids (last INTEGER NOT NULL, generation INTEGER NOT NULL) STRICT;
INSERT INTO "ids" VALUES(4,4);
CREATE TABLE kvstore (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL,
        revision INTEGER NOT NULL UNIQUE,
        written REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
INSERT INTO "kvstore" VALUES('podlane/state/endpoints/v1/recorded/1','{"addresses": ["10.44.0.2", "fd00:44::2"], "attachment": {"container_id": "ba1f7d468eb626272f49bbecb751062a52734a01a9c6e71258433d083dec4204", "ifname": "eth0", "network": "podlane"}, "generation": 1, "id": 1, "identity": {"id": 5, "labels": {"app": "web", "k8s:tier": "front"}}, "node": "recorded", "pod": {"name": "web-0", "namespace": "default", "uid": "u1"}, "state": "ready"}',1,1.79560164203235936167e+09);
INSERT INTO "kvstore" VALUES('podlane/state/endpoints/v1/recorded/3','{"addresses": ["10.44.0.4", "fd00:44::4"], "attachment": {"container_id": "d60f80af2b47805c810f591550c02be213120366940715db43368924ba7864fd", "ifname": "eth0", "network": "podlane"}, "generation": 3, "id": 3, "identity": {"id": 5, "labels": {"app": "web", "k8s:tier": "front"}}, "node": "recorded", "pod": {"name": "web-2", "namespace": "default", "uid": "u1"}, "state": "ready"}',3,1.79560164210527896874e+09);
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
INSERT INTO "log" VALUES(1,1,1.79560164161267089844e+09,'other','ok','identity 5 (reserved:init), as all endpoints','waiting-for-identity');
INSERT INTO "log" VALUES(1,2,1.79560164199401068683e+09,'bpf','ok','regenerated at level rewrite+load (initial build on endpoint creation): the endpoint has no programs yet','regenerating');
INSERT INTO "log" VALUES(1,3,1795601642.10547,'other','ok','options set: debug on','ready');
INSERT INTO "log" VALUES(1,4,1.7956016426565515995e+09,'bpf','ok','regenerated at level rewrite+load (endpoint config: debug on): the configuration has changed','regenerating');
INSERT INTO "log" VALUES(1,5,1.79560164367592334745e+09,'bpf','ok','regenerated at level rewrite+load (config: policy-accounting on): the configuration has changed','regenerating');
INSERT INTO "log" VALUES(3,1,1.79560164208336663247e+09,'other','ok','identity 5 (reserved:init), as all endpoints','waiting-for-identity');
INSERT INTO "log" VALUES(3,2,1.79560164209871363639e+09,'bpf','ok','regenerated at level rewrite+load (initial build on endpoint creation): the endpoint has no programs yet','regenerating');
INSERT INTO "log" VALUES(3,3,1.79560164371638607975e+09,'bpf','ok','regenerated at level rewrite+load (config: policy-accounting on): the configuration has changed','regenerating');
INSERT INTO "log" VALUES(4,1,1.79560164377372336388e+09,'other','ok','identity 5 (reserved:init), as all endpoints','waiting-for-identity');
CREATE TABLE node_options (name TEXT PRIMARY KEY, enabled INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO "node_options" VALUES('policy-accounting',1);
COMMIT;
PRAGMA user_version = 2;
