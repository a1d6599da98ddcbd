/* Written by podlane-loader: what all endpoints of this node share. */
#pragma once
#define ENDPOINTS_MAP_SIZE 65535
#define CALL_POLICY_MAP_SIZE 65536
#define POLICY_MAP_SIZE 16384
#define METRICS_MAP_SIZE 65536
#define EVENTS_RING_SIZE 1048576
#define EVENTS_BURST 256
