/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What becomes of a refused packet: it is counted, told of, and gone. Only drops are counted: a
 * forwarded packet pays for no map write.
 */
#pragma once

#include "events.h"
#include "packet.h"

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

static __always_inline void drop_count(const struct __sk_buff *skb, const struct packet *packet)
{
	struct metrics_value *counter = bpf_map_lookup_elem(&podlane_metrics, &packet->where);
	struct metrics_value first = {.packets = 1, .bytes = skb->len};

	if (counter) {
		counter->packets++;
		counter->bytes += skb->len;
	} else {
		bpf_map_update_elem(&podlane_metrics, &packet->where, &first, BPF_ANY);
	}
}

/* Drops the packet for a refusal. Returns the action. */
static __always_inline int drop(struct __sk_buff *skb, struct packet *packet, int refusal)
{
	const __u32 what = -refusal;

	packet->where.reason = what;
	packet->line = what >> REFUSAL_LINE_SHIFT;
	packet->file = what >> REFUSAL_FILE_SHIFT;
	barrier();
	drop_count(skb, packet);
#ifdef ENABLE_DROP_NOTIFY
	event_send(skb, packet, EVENT_DROP);
#endif
#ifdef ENABLE_DEBUG
	bpf_printk("podlane: endpoint %d dropped %d bytes, reason %d", endpoint_id, skb->len,
		   packet->where.reason);
#endif
	return TC_ACT_SHOT;
}
