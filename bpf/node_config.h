/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Sample of what all endpoints of a node share. The loader writes its own into <state>/globals/,
 * which is found first; this one makes the sources compile by themselves and documents every line.
 *
 * Only what changes the code or the maps is here. The gateways' addresses are not: they are
 * constants of .rodata (lib/endpoint_config.h), so that one prebuilt object fits every node.
 */
#pragma once

/* Addresses of local endpoints, both families. Entries take memory when they are made, not before.
 */
#define ENDPOINTS_MAP_SIZE 65535
/* One slot for each endpoint id and the unused 0; 8 bytes each, at once. */
#define CALL_POLICY_MAP_SIZE 65536
/* Entries in one endpoint's policy map. */
#define POLICY_MAP_SIZE 16384
/* Address prefixes that policies' ipBlocks are made of. Entries take memory when they are made. */
#define PREFIXES_MAP_SIZE 65536
/* Different (endpoint, reason, direction) of drops that can be counted at a time. */
#define METRICS_MAP_SIZE 65536
/* The ring that events wait in, bytes: a power of two, at once. A record takes 88. */
#define EVENTS_RING_SIZE 1048576
/* Flows of all endpoints that track connections, one for each end on this node. 144 bytes each, at
 * once, with the usual shape of the programs. */
#define CONNTRACK_MAP_SIZE 131072
/* Addresses of other nodes and of their pods; made only where there are other nodes. 8 MiB at once,
 * and 128 bytes for each entry when it is made. */
#define IPCACHE_MAP_SIZE 512000

/* There are other nodes: their addresses have identities (lib/ipcache.h). */
/* #define ENABLE_CLUSTER */
/* Packets to their pods go through VXLAN (lib/overlay.h), to this UDP port; nodes reach each other
 * by IPv6. */
/* #define ENABLE_OVERLAY */
/* #define TUNNEL_PORT 8472 */
/* #define ENABLE_UNDERLAY_IPV6 */
