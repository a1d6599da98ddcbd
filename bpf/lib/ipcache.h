/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who is behind the addresses of other nodes: address -> security identity, and the node that
 * packets to it are tunnelled to. One map for all programs, only where there are other nodes.
 *
 * Addresses of this node are in podlane_endpoints, which is asked first. An address in neither is
 * the world's. An entry without a tunnel is reached by the stack's routes: a node's own address, and
 * with native routing everything.
 */
#pragma once

#include "endpoints.h"

#ifdef ENABLE_CLUSTER

/* `node` is the address of a node that packets are tunnelled to. In a place where endpoint_value
 * has ENDPOINT_FLAG_HOST. */
#define IPCACHE_FLAG_TUNNELLED 2
/* `node` is an IPv6 address: for those who read the map, nodes have one family. */
#define IPCACHE_FLAG_IPV6 4

/* The beginning is laid out as struct endpoint_value, and the whole is as long: whoever is found, it
 * is copied to struct packet in the same way. */
struct ipcache_value {
	__u32 reserved;
	/* 0: no endpoint of this node. */
	__u16 lxc_id;
	__u16 flags;
	__u32 identity;
	/* IPv4: the first four bytes, the rest zero. Of the underlay's family. */
	union ipv6_address node;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, IPCACHE_MAP_SIZE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint_key);
	__type(value, struct ipcache_value);
} podlane_ipcache SEC(".maps");

/* The way to the other nodes, read in place; see podlane_revision. The loader writes it. */
struct underlay {
	/* The device that they are behind. */
	__u32 ifindex;
	/* The VXLAN device, 0 without one. */
	__u32 overlay_ifindex;
	/* What tunnelled packets have for a source. IPv4: the first four bytes. */
	union ipv6_address address;
};

const volatile struct underlay podlane_underlay SEC(".data.podlane_underlay");

static __always_inline const struct ipcache_value *ipcache_lookup(const struct endpoint_key *key)
{
	return bpf_map_lookup_elem(&podlane_ipcache, key);
}

/* Returns the identity that a routed packet's source address stands for: who is tunnelled to comes
 * through the tunnel. */
static __always_inline __u32 ipcache_routed_identity(const struct endpoint_key *source)
{
	const struct ipcache_value *from = ipcache_lookup(source);

	return from && !(from->flags & IPCACHE_FLAG_TUNNELLED) ? from->identity : IDENTITY_WORLD;
}

#endif
