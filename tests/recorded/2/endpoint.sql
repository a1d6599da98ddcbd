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
INSERT INTO "endpoints" VALUES(1,1,'podlane','4588b7cb965b20305aee6baccab0886a040c445ddadd7e2b2b71ebae6a79ecf3','eth0','default','web-0','u1','lxcd079c4e14620',4,X'8E2C195F50DB',X'D610DE8ECF24','/run/netns/pl-4395daa1-p0',1500,2,4026532248,'{"app": "web", "k8s:tier": "front"}',1.79560257608525705337e+09,5,'created','{"level": 2, "reasons": ["config: policy-accounting on"], "started": 1795602576.2915726, "phases": [["regenerate", 156073], ["regenerate:headers", 189], ["regenerate:template", 147569], ["regenerate:observe", 459], ["regenerate:load", 3580], ["regenerate:policy", 49], ["regenerate:attach", 743], ["regenerate:host", 868], ["regenerate:maps", 39], ["regenerate:commit", 271]], "error": "", "programs": [["from_container", 138851, "a42aa1db45c0381a", 796, 935, "tc ingress"], ["policy", 138852, "9fa4c10c72ac3319", 183, 213, "call_policy[1]"], ["to_container", 138853, "5caca68352b5dad5", 421, 539, "tc egress"]], "config_hash": "88bcfc9008733f2675ff4fcc1d4108eaa32ae961eaa56e30aecc14974f9fb98b", "reload_reason": "the configuration has changed", "changes": []}','{"debug": true}','[3, 0, 0, 0]');
INSERT INTO "endpoints" VALUES(3,3,'podlane','42d0027fd25548063db984801f61c61e38e3fe0c521ab6437ade2ff9604dd61b','eth0','default','web-2','u1','lxcc338fc07e4f4',6,X'EE0CE0DEE921',X'8E573690180F','/run/netns/pl-4395daa1-p2',1500,2,4026532386,'{"app": "web", "k8s:tier": "front"}',1.79560257612490177157e+09,5,'disconnecting','{"level": 2, "reasons": ["config: policy-accounting on"], "started": 1795602576.438922, "phases": [["regenerate", 11076], ["regenerate:headers", 431], ["regenerate:template", 21], ["regenerate:observe", 772], ["regenerate:load", 3169], ["regenerate:policy", 47], ["regenerate:attach", 304], ["regenerate:host", 219], ["regenerate:maps", 35], ["regenerate:commit", 245]], "error": "", "programs": [["from_container", 138856, "67704c5a1474ce50", 769, 902, "tc ingress"], ["to_container", 138854, "5f4d542a424f02ab", 414, 479, "tc egress"], ["policy", 138855, "2dfa0e5c2f32037d", 176, 198, "call_policy[3]"]], "config_hash": "98a68c546503cf1c7eec85a3de182030bd1cba6d1c42661a4e5a81a4c71a63b4", "reload_reason": "the configuration has changed", "changes": []}','{}','[2, 0, 0, 0]');
INSERT INTO "endpoints" VALUES(4,4,'podlane','87fcf787381211f152a1f69e80f15ba74bc0d8f548cac80b897a580472460979','eth0','default','web-3','u1','lxc881ef830191e',7,X'7A7488A0CC15',X'FEDABB9B0F33','/run/netns/pl-4395daa1-p3',1500,2,4026532455,'{"app": "web", "k8s:tier": "front"}',1.79560257648681831357e+09,5,'creating',NULL,'{}','[0, 0, 0, 0]');
CREATE TABLE ids (last INTEGER NOT NULL, generation INTEGER NOT NULL) STRICT;
INSERT INTO "ids" VALUES(4,4);
CREATE TABLE kvstore (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL,
        revision INTEGER NOT NULL UNIQUE,
        written REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
INSERT INTO "kvstore" VALUES('podlane/state/endpoints/v1/recorded/1','{"addresses": ["10.44.0.2", "fd00:44::2"], "attachment": {"container_id": "4588b7cb965b20305aee6baccab0886a040c445ddadd7e2b2b71ebae6a79ecf3", "ifname": "eth0", "network": "podlane"}, "generation": 1, "id": 1, "identity": {"id": 5, "labels": {"app": "web", "k8s:tier": "front"}}, "node": "recorded", "pod": {"name": "web-0", "namespace": "default", "uid": "u1"}, "state": "ready"}',1,1.7956025761023406982e+09);
INSERT INTO "kvstore" VALUES('podlane/state/endpoints/v1/recorded/3','{"addresses": ["10.44.0.4", "fd00:44::4"], "attachment": {"container_id": "42d0027fd25548063db984801f61c61e38e3fe0c521ab6437ade2ff9604dd61b", "ifname": "eth0", "network": "podlane"}, "generation": 3, "id": 3, "identity": {"id": 5, "labels": {"app": "web", "k8s:tier": "front"}}, "node": "recorded", "pod": {"name": "web-2", "namespace": "default", "uid": "u1"}, "state": "ready"}',3,1.79560257613617873196e+09);
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
INSERT INTO "log" VALUES(1,1,1.79560257608525705337e+09,'other','ok','identity 5 (reserved:init), as all endpoints','waiting-for-identity');
INSERT INTO "log" VALUES(1,2,1.79560257609546518329e+09,'bpf','ok','regenerated at level rewrite+load (initial build on endpoint creation): the endpoint has no programs yet','regenerating');
INSERT INTO "log" VALUES(1,3,1.79560257613581418989e+09,'other','ok','options set: debug on','ready');
INSERT INTO "log" VALUES(1,4,1.79560257628696942327e+09,'bpf','ok','regenerated at level rewrite+load (endpoint config: debug on): the configuration has changed','regenerating');
INSERT INTO "log" VALUES(1,5,1.79560257644767594332e+09,'bpf','ok','regenerated at level rewrite+load (config: policy-accounting on): the configuration has changed','regenerating');
INSERT INTO "log" VALUES(3,1,1.79560257612490177157e+09,'other','ok','identity 5 (reserved:init), as all endpoints','waiting-for-identity');
INSERT INTO "log" VALUES(3,2,1.79560257613108944889e+09,'bpf','ok','regenerated at level rewrite+load (initial build on endpoint creation): the endpoint has no programs yet','regenerating');
INSERT INTO "log" VALUES(3,3,1795602576.45002,'bpf','ok','regenerated at level rewrite+load (config: policy-accounting on): the configuration has changed','regenerating');
INSERT INTO "log" VALUES(4,1,1.79560257648681831357e+09,'other','ok','identity 5 (reserved:init), as all endpoints','waiting-for-identity');
CREATE TABLE node_options (name TEXT PRIMARY KEY, enabled INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO "node_options" VALUES('policy-accounting',1);
COMMIT;
PRAGMA user_version = 2;
