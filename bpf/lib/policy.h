/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which peers an endpoint talks to: its own map of rules, filled by the loader, asked by its own
 * programs.
 *
 * A packet is looked up with the peer's identity, with IDENTITY_ANY, and with the identity of the
 * longest prefix in podlane_prefixes that the peer's address lies in, pod or not; without such a
 * prefix not a third time. Each time the entry with the longest matching protocol and port prefix
 * answers. A deny of any wins, else an allow of any, else nothing allows the packet and it is
 * dropped: an empty map denies everything.
 *
 * Within one identity a narrow entry hides a wider one, so whoever resolves rules into entries must
 * repeat a wide deny at each narrower allow. So does a narrow prefix a wider one: what holds for
 * both needs entries of both, and an exception is a longer prefix without any.
 *
 * Replies are not known here: which packets are asked about is conntrack.h's matter.
 */
#pragma once

#include "events.h"
#include "packet.h"
#include "parse.h"

#undef THIS_FILE
#define THIS_FILE SOURCE_POLICY

/* Identity and direction (40 bits) are exact in every entry; a port fixes 0 to 16 bits of its own.
 */
#define POLICY_PREFIX_PROTOCOL 48
#define POLICY_PREFIX_PORT     16

/* A family and all bits of an address: of IPv4 more than any prefix has. */
#define PREFIX_WHOLE 160

#define POLICY_FLAG_DENY  1
#define POLICY_FLAG_ALLOW 2

#define POLICY_HAS_PORTS 4

/* By the flags of all entries that answered, and whether ports were found: 0, or a refusal. Looked up,
 * because of a number that is read the verifier knows nothing: one way from there on, not four. */
const __s32 policy_verdicts[2 * POLICY_HAS_PORTS] = {
	[0] = refused(DROP_PORTS_MISSING),
	[POLICY_FLAG_DENY] = refused(DROP_POLICY_DENY),
	[POLICY_FLAG_ALLOW] = 0,
	[POLICY_FLAG_DENY | POLICY_FLAG_ALLOW] = refused(DROP_POLICY_DENY),
	[POLICY_HAS_PORTS] = refused(DROP_POLICY),
	[POLICY_HAS_PORTS | POLICY_FLAG_DENY] = refused(DROP_POLICY_DENY),
	[POLICY_HAS_PORTS | POLICY_FLAG_ALLOW] = 0,
	[POLICY_HAS_PORTS | POLICY_FLAG_DENY | POLICY_FLAG_ALLOW] = refused(DROP_POLICY_DENY),
};

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

/* Which identity stands for the addresses of a prefix and of no longer one. One map for all
 * programs. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, PREFIXES_MAP_SIZE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix_key);
	__type(value, __u32);
} podlane_prefixes SEC(".maps");

/* Adds the flags of the entry that answers to those in packet->verdict: in memory, so that the
 * verifier sees one way whether or not there is such an entry. */
static __always_inline void policy_lookup(struct __sk_buff *skb, struct packet *packet)
{
	struct policy_value *rule = bpf_map_lookup_elem(&podlane_policy, &packet->policy_key);

	if (!rule)
		return;
#ifdef ENABLE_POLICY_ACCOUNTING
	__sync_fetch_and_add(&rule->packets, 1);
	__sync_fetch_and_add(&rule->bytes, skb->len);
#endif
	packet->verdict |= rule->flags;
}

/* Returns the identity of the longest prefix that an address lies in, NULL without one. */
static __always_inline const __u32 *prefix_lookup(struct packet *packet,
						  const struct endpoint_key *address)
{
	struct prefix_key *key = &packet->prefix_key;

	key->prefix_length = PREFIX_WHOLE;
	key->family = address->family;
	copy_16_octets(&key->address, &address->address);
	return bpf_map_lookup_elem(&podlane_prefixes, key);
}

/* Whether the packet may pass between the endpoint and who is at `address`, whose identity is in the
 * key: 0, or a refusal. */
static __always_inline int policy_check(struct __sk_buff *skb, struct packet *packet,
					const struct endpoint_key *address)
{
	struct policy_key *key = &packet->policy_key;
	const __u32 *prefix;

	key->prefix_length = POLICY_PREFIX_PROTOCOL + POLICY_PREFIX_PORT * packet->has_ports *
							      protocol_has_ports(packet->protocol);
	key->direction = packet->where.direction;
	key->protocol = packet->protocol;
	key->port = packet->destination_port;
	packet->verdict = 0;
	policy_lookup(skb, packet);
	barrier();
	key->identity = IDENTITY_ANY;
	policy_lookup(skb, packet);
	barrier();

	prefix = prefix_lookup(packet, address);
	if (prefix) {
		key->identity = *prefix;
		policy_lookup(skb, packet);
	}
	barrier();
	return policy_verdicts[(packet->verdict & (POLICY_FLAG_DENY | POLICY_FLAG_ALLOW)) |
			       (packet->has_ports & 1) * POLICY_HAS_PORTS];
}

/* Decides, and tells of it: of what is denied, of flows that begin, of everything where no flows
 * are tracked. */
static __always_inline int policy_verdict(struct __sk_buff *skb, struct packet *packet,
					  const struct endpoint_key *address)
{
	int verdict = policy_check(skb, packet, address);

#ifdef ENABLE_POLICY_VERDICT
	packet->verdict = verdict;
	packet->where.reason = -verdict; /* 0: allowed */
	barrier();
	if (packet->verdict || packet->conntrack != CONNTRACK_ESTABLISHED)
		event_send(skb, packet, EVENT_POLICY_VERDICT);
	return packet->verdict;
#else
	return verdict;
#endif
}
