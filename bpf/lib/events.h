/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What happens to packets, told to whoever listens: drops, points of a packet's way, verdicts of
 * policy, connections that open and close.
 *
 * A record is the beginning of struct packet, which the programs fill anyway, so telling is one
 * copy into a ring that all CPUs share. That of a connection goes on to its flow's key and entry.
 *
 * The reader grants each CPU so many records of each type and grants more when it has read. Nobody
 * listening, nothing is granted and nothing copied. A flood costs the data path no more than the
 * reader takes; the rest is counted. Types don't take each other's share: drops are heard although
 * everything is traced.
 */
#pragma once

#include "packet.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENTS_RING_SIZE);
} podlane_events SEC(".maps");

/* By enum event_type: how many records a CPU may still send. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EVENT_TYPES);
	__type(key, __u32);
	__type(value, __u64);
} podlane_event_credits SEC(".maps");

/* Sends so much of the packet as a record if the reader takes one. */
static __always_inline void event_send_some(const struct __sk_buff *skb, struct packet *packet,
					    enum event_type type, __u32 size)
{
	__u64 *credit = bpf_map_lookup_elem(&podlane_event_credits, &numbers[type]);

	packet->event = type;
	if (!credit || !*credit) {
		packet->not_sent[type]++;
		return;
	}
	*credit -= 1;
	packet->time = bpf_ktime_get_ns();
	packet->length = skb->len;
	if (bpf_ringbuf_output(&podlane_events, packet, size, 0))
		packet->not_sent[type]++;
}

/* Sends the packet's record if the reader takes one. */
static __always_inline void event_send(const struct __sk_buff *skb, struct packet *packet,
				       enum event_type type)
{
	event_send_some(skb, packet, type, EVENT_SIZE);
}

/* Tells that the packet has come to a point of its way. */
static __always_inline void trace(const struct __sk_buff *skb, struct packet *packet,
				  enum trace_point point)
{
#ifdef ENABLE_TRACE
	packet->point = point;
	event_send(skb, packet, EVENT_TRACE);
#endif
}
