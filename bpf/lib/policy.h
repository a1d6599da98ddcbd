/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which peers an endpoint talks to: its own map of rules, filled by the loader, asked by its own
 * programs.
 *
 * A packet is looked up twice, with the peer's identity and with IDENTITY_ANY; each time the entry
 * with the longest matching protocol and port prefix answers. A deny of either wins, else an allow
 * of either, else nothing allows the packet and it is dropped: an empty map denies everything.
 * Within one identity a narrow entry hides a wider one, so whoever resolves rules into entries must
 * repeat a wide deny at each narrower allow.
 *
 * Replies are not known here: rules are about packets, in both directions, until there is
 * connection tracking.
 */
#pragma once

#include "drop.h"
#include "packet.h"

struct policy_key {
	/* Of what follows, in bits. */
	__u32 prefix_length;
	__u32 identity;
	enum traffic_direction direction;
	__u8 protocol;
	/* Network byte order, so that a prefix of its bits is a range of ports. */
	__be16 port;
};

/* Identity and direction (40 bits) are exact in every entry; a port fixes 0 to 16 bits of its own.
 */
#define POLICY_PREFIX_PROTOCOL 48
#define POLICY_PREFIX_PORT     16

#define POLICY_FLAG_DENY  1
#define POLICY_FLAG_ALLOW 2

struct policy_value {
	/* One of the two: no entry reads as neither. */
	__u32 flags;
	__u32 reserved;
	/* Counted only with ENABLE_POLICY_ACCOUNTING. */
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, POLICY_MAP_SIZE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct policy_key);
	__type(value, struct policy_value);
} podlane_policy SEC(".maps");

static __always_inline __u32 policy_lookup(struct __sk_buff *skb, const struct policy_key *key)
{
	struct policy_value *rule = bpf_map_lookup_elem(&podlane_policy, key);

	if (!rule)
		return 0;
#ifdef ENABLE_POLICY_ACCOUNTING
	__sync_fetch_and_add(&rule->packets, 1);
	__sync_fetch_and_add(&rule->bytes, skb->len);
#endif
	return rule->flags;
}

/* Returns 0 when the packet may pass between the endpoint and `peer`, or a negated drop_reason. */
static __always_inline int policy_check(struct __sk_buff *skb, const struct packet *packet,
					__u32 peer, enum traffic_direction direction)
{
	struct policy_key key = {
		.prefix_length = POLICY_PREFIX_PROTOCOL + packet->has_ports * POLICY_PREFIX_PORT,
		.identity = peer,
		.direction = direction,
		.protocol = packet->protocol,
		.port = packet->destination_port,
	};
	__u32 flags = policy_lookup(skb, &key);

	key.identity = IDENTITY_ANY;
	flags |= policy_lookup(skb, &key);
	if (likely(flags == POLICY_FLAG_ALLOW))
		return 0;
	if (flags & POLICY_FLAG_DENY)
		return -DROP_POLICY_DENY;
	return packet->has_ports ? -DROP_POLICY : -DROP_PORTS_MISSING;
}
