/* Written by podlane-loader: what all endpoints of this node share. */
#pragma once
#define ENDPOINTS_MAP_SIZE 65535
#define CALL_POLICY_MAP_SIZE 65536
#define POLICY_MAP_SIZE 16384
#define PREFIXES_MAP_SIZE 65536
#define METRICS_MAP_SIZE 65536
#define EVENTS_RING_SIZE 1048576
#define CONNTRACK_MAP_SIZE 131072
#define IPCACHE_MAP_SIZE 512000
