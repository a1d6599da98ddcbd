/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The endpoints of this node: address -> who lives there and how to reach them. One map for all
 * programs.
 *
 * An entry is written last when an endpoint is created and removed first when it is deleted: a hit
 * means that the endpoint's policy program is in its slot. The node's own addresses are entries
 * with ENDPOINT_FLAG_HOST.
 */
#pragma once

#include "common.h"

enum address_family {
	FAMILY_IPV4 = 1,
	FAMILY_IPV6 = 2,
};

struct endpoint_key {
	/* IPv4: the first four bytes, the rest zero. */
	union ipv6_address address;
	/* enum address_family; 32 bits wide so that the key hashes word by word. */
	__u32 family;
};

/* The address belongs to the node itself: packets go up its stack. */
#define ENDPOINT_FLAG_HOST 1
/* Packets to it take the node's stack, which knows the way; its policy is asked on its interface.
 * 2 and 4 are ipcache.h's: one place is read for both. */
#define ENDPOINT_FLAG_CHAINED 8
/* Packets to it take the node's stack too, so that queues and filters of others hold for them. */
#define ENDPOINT_FLAG_HOST_ROUTED 16

#define ENDPOINT_BY_STACK (ENDPOINT_FLAG_CHAINED | ENDPOINT_FLAG_HOST_ROUTED)

struct endpoint_value {
	/* The node's end of the veth pair. */
	__u32 ifindex;
	/* Slot in podlane_call_policy. */
	__u16 lxc_id;
	__u16 flags;
	__u32 identity;
	struct mac_address pod_mac;
	struct mac_address host_mac;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ENDPOINTS_MAP_SIZE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint_key);
	__type(value, struct endpoint_value);
} podlane_endpoints SEC(".maps");

/* Policy programs by endpoint id: local delivery jumps into the destination's. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, CALL_POLICY_MAP_SIZE);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} podlane_call_policy SEC(".maps");

/* Writes an IPv4 address where either family may be: the first four bytes, the rest zero. */
static __always_inline void address_write_ipv4(void *to, __be32 address)
{
	union ipv6_address *either = to;

	either->words[0] = address;
	either->words[1] = 0;
	*(quad *)&either->words[2] = 0;
}

static __always_inline void endpoint_key_ipv4(struct endpoint_key *key, __be32 address)
{
	address_write_ipv4(&key->address, address);
	key->family = FAMILY_IPV4;
}

static __always_inline void endpoint_key_ipv6(struct endpoint_key *key, const void *address)
{
	copy_16_octets(&key->address, address);
	key->family = FAMILY_IPV6;
}

static __always_inline struct endpoint_value *endpoint_lookup(const struct endpoint_key *key)
{
	return bpf_map_lookup_elem(&podlane_endpoints, key);
}

/*
 * What marks a packet that a chained endpoint sends for as long as the node's stack has it: routed
 * off a bridge, it doesn't say any more at whose interface it came in. What the overlay has brought
 * and gives to the stack is marked with the identity that its tunnel key has. The kernel takes marks away
 * where a packet leaves a network namespace, so a pod can't set one. As Cilium has it: bits 12 to 15
 * are left to kube-proxy and the portmap plugin.
 */
#define IDENTITY_MARK	   0x0f00
#define IDENTITY_MARK_MASK 0xffff0fff

static __always_inline __u32 identity_mark(__u32 identity)
{
	return IDENTITY_MARK | identity << 16 | (identity >> 16 & 0xff);
}

static __always_inline __u32 identity_of_mark(__u32 mark)
{
	return mark >> 16 | (mark & 0xff) << 16;
}

/* Whether the packet that the stack has was sent by this endpoint: a source address alone proves
 * nothing. */
static __always_inline bool endpoint_has_sent(const struct endpoint_value *from,
					      const struct __sk_buff *skb)
{
	if (from->ifindex == skb->ingress_ifindex)
		return true;
	return from->flags & ENDPOINT_FLAG_CHAINED &&
	       (skb->mark & IDENTITY_MARK_MASK) == identity_mark(from->identity);
}

/* An assignment, in half as many instructions as the compiler's. */
static __always_inline void endpoint_copy(struct endpoint_value *to,
					  const struct endpoint_value *from)
{
	copy_16_octets(to, from);
	*(quad *)((void *)to + 16) = *(quad *)((void *)from + 16);
	*word_at((void *)to + 24) = *word_at((void *)from + 24);
}
