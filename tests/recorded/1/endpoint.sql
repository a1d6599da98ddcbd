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
        regeneration TEXT,
        UNIQUE (container_id, ifname, network)
    ) STRICT;
INSERT INTO "endpoints" VALUES(1,1,'podlane','357144f60e383d39f66cc733e005f17c86751895813221729edf421de39a754d','eth0','default','web-0','u1','lxc9a2acb07b1fe',4,X'26BD02C83C75',X'52A0C14F6085','/run/netns/pl-b80341aa-p0',1500,2,4026532686,'{"k8s:tier": "front", "app": "web"}',1.79559794593082785608e+09,5,'created','{"level": 2, "reasons": ["initial build on endpoint creation"], "started": 1795597945.933214, "phases": [["total", 67128], ["queue", 46], ["store", 2205], ["confirm", 1485], ["regenerate", 64719], ["regenerate:headers", 154], ["regenerate:template", 58205], ["regenerate:observe", 1], ["regenerate:load", 2902], ["regenerate:policy", 203], ["regenerate:attach", 481], ["regenerate:host", 467], ["regenerate:maps", 111], ["regenerate:commit", 75]], "error": "", "programs": [["from_container", 16307, "4732f919d30cc7f0", 630, 964, "tc ingress"], ["policy", 16309, "af65db563f30a802", 83, 80, "call_policy[1]"], ["to_container", 16310, "ae5d061dc28527f4", 243, 506, "tc egress"]], "config_hash": "568ef42a518cd1f7011207048a7a1fbc7cfffc27e2fb692745efaa1739dcbca2"}');
INSERT INTO "endpoints" VALUES(3,3,'podlane','69499e10811c51596335555cfadad4dd03f457dcbbe9937977de46296fa1be57','eth0','default','web-2','u1','lxc1b5a6192bd8d',6,X'1E02866423AF',X'9659C4589A28','/run/netns/pl-b80341aa-p2',1500,2,4026533156,'{"k8s:tier": "front", "app": "web"}',1.79559794603057456012e+09,5,'disconnecting','{"level": 2, "reasons": ["initial build on endpoint creation"], "started": 1795597946.0310047, "phases": [["total", 6790], ["queue", 39], ["store", 313], ["confirm", 2176], ["regenerate", 6358], ["regenerate:headers", 132], ["regenerate:template", 16], ["regenerate:observe", 1], ["regenerate:load", 3452], ["regenerate:policy", 150], ["regenerate:attach", 282], ["regenerate:host", 587], ["regenerate:maps", 94], ["regenerate:commit", 69]], "error": "", "programs": [["from_container", 16314, "4732f919d30cc7f0", 630, 964, "tc ingress"], ["to_container", 16315, "ae5d061dc28527f4", 243, 506, "tc egress"], ["policy", 16316, "af65db563f30a802", 83, 80, "call_policy[3]"]], "config_hash": "d583defbd3bf9dbf1693b5012316f6d98c92fb4c5700870bedfa82e9a8565e08"}');
INSERT INTO "endpoints" VALUES(4,4,'podlane','732bcf093cb60408e2cbda3d3cf7b08e37b4edbac67b3b41853ddcfdb57b3ec7','eth0','default','web-3','u1','lxc9ab49d35842e',7,X'B234D3908484',X'4AFEFC7E4C15','/run/netns/pl-b80341aa-p3',1500,2,4026532535,'{"k8s:tier": "front", "app": "web"}',1.79559794623405456544e+09,5,'creating',NULL);
CREATE TABLE ids (last INTEGER NOT NULL, generation INTEGER NOT NULL) STRICT;
INSERT INTO "ids" VALUES(4,4);
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
INSERT INTO "log" VALUES(1,1,1.79559794593082785608e+09,'other','ok','identity 5 (reserved:init), as all endpoints','waiting-for-identity');
INSERT INTO "log" VALUES(1,2,1.79559794599797797201e+09,'bpf','ok','regenerated at level rewrite+load (initial build on endpoint creation)','regenerating');
INSERT INTO "log" VALUES(3,1,1.79559794603057456012e+09,'other','ok','identity 5 (reserved:init), as all endpoints','waiting-for-identity');
INSERT INTO "log" VALUES(3,2,1.79559794603738522534e+09,'bpf','ok','regenerated at level rewrite+load (initial build on endpoint creation)','regenerating');
INSERT INTO "log" VALUES(4,1,1.79559794623405456544e+09,'other','ok','identity 5 (reserved:init), as all endpoints','waiting-for-identity');
COMMIT;
PRAGMA user_version = 1;
