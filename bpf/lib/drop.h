/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Why packets are dropped, and how many. Only drops are counted: a forwarded packet pays for no map
 * write.
 *
 * The names of the reasons live here alone. `DROP_INVALID_SOURCE_IP` is shown to people as `invalid
 * source ip`; Python's list is held against this one through BTF. Numbers from 130 on mean what
 * they mean in Cilium.
 */
#pragma once

#include "endpoint_config.h"

enum drop_reason {
	/* What a pod's kernel sends to its link without being asked: MLD, router solicitations,
	 * duplicate address detection, mDNS. Multicast and broadcast have nowhere to go here. */
	DROP_LINK_LOCAL_NOISE = 1,
	/* An ARP request for something else than the gateway. */
	DROP_ARP_TARGET = 2,
	/* ARP in the name of somebody else. */
	DROP_ARP_SENDER = 3,
	/* A neighbour solicitation for something else than the gateway. */
	DROP_ND_TARGET = 4,
	/* Neighbour discovery in the name of somebody else. */
	DROP_ND_SENDER = 5,
	/* More IPv6 extension headers than are followed to find the ports. */
	DROP_IPV6_EXTENSIONS = 6,

	DROP_INVALID_SOURCE_MAC = 130,
	DROP_INVALID_SOURCE_IP = 132,
	/* No policy entry allows it. */
	DROP_POLICY = 133,
	/* Truncated or malformed. */
	DROP_INVALID_PACKET = 134,
	/* Neither ARP nor an IP version that the endpoint has an address of; VLAN tags. */
	DROP_UNKNOWN_L3 = 139,
	/* A fragment, or the beginning of a packet, without the ports that the entries ask for. */
	DROP_PORTS_MISSING = 157,
	/* A policy entry denies it. */
	DROP_POLICY_DENY = 181,
	/* The destination is known, but its policy program isn't in its slot. */
	DROP_ENDPOINT_NOT_READY = 203,
} __attribute__((packed));

struct metrics_key {
	__u16 endpoint_id;
	enum drop_reason reason;
	enum traffic_direction direction;
};

struct metrics_value {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, METRICS_MAP_SIZE);
	/* Most endpoints never drop anything; preallocated, this would cost 16 bytes per CPU and
	 * slot. */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct metrics_key);
	__type(value, struct metrics_value);
} podlane_metrics SEC(".maps");

/* Counts the packet under its reason (a negated drop_reason) and returns the action that drops it.
 */
static __always_inline int drop(struct __sk_buff *skb, int verdict,
				enum traffic_direction direction)
{
	struct metrics_key key = {
		.endpoint_id = endpoint_id, .reason = -verdict, .direction = direction};
	struct metrics_value *counter = bpf_map_lookup_elem(&podlane_metrics, &key);

	if (counter) {
		counter->packets++;
		counter->bytes += skb->len;
	} else {
		struct metrics_value first = {.packets = 1, .bytes = skb->len};

		bpf_map_update_elem(&podlane_metrics, &key, &first, BPF_ANY);
	}
#ifdef ENABLE_DEBUG
	bpf_printk("podlane: endpoint %d dropped %d bytes, reason %d", endpoint_id, skb->len,
		   -verdict);
#endif
	return TC_ACT_SHOT;
}
