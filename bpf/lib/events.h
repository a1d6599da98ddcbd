/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What happens to packets, told to whoever listens: drops, points of a packet's way, verdicts of
 * policy.
 *
 * A record is the beginning of struct packet, which the programs fill anyway, so telling is one
 * copy into a ring that all CPUs share. Nobody listening, nothing is copied: the loader says in
 * podlane_events_wanted which types it has readers for.
 *
 * A flood must not cost the data path more than the packets do: each CPU sends EVENTS_BURST records
 * of a type in a window of EVENTS_WINDOW and counts the rest, as it counts what finds the ring
 * full. Types don't take each other's share: drops are heard although everything is traced.
 */
#pragma once

#include "packet.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENTS_RING_SIZE);
} podlane_events SEC(".maps");

/* One bit for each type, 1 << enum event_type. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} podlane_events_wanted SEC(".maps");

/* The logarithm of a window's length in nanoseconds: 67 ms. */
#define EVENTS_WINDOW 26

static __always_inline bool event_is_wanted(enum event_type type)
{
	const __u32 *types = bpf_map_lookup_elem(&podlane_events_wanted, &numbers[0]);

	return types && *types & 1 << type;
}

/* Sends the packet's record if somebody wants it and the CPU may. */
static __always_inline void event_send(const struct __sk_buff *skb, struct packet *packet,
				       enum event_type type)
{
	struct event_meter *meter;
	__u64 now;

	if (likely(!event_is_wanted(type)))
		return;
	meter = &packet->meters[type];
	now = bpf_ktime_get_ns();
	if (meter->window != now >> EVENTS_WINDOW) {
		meter->window = now >> EVENTS_WINDOW;
		meter->sent = 0;
	}
	packet->time = now;
	packet->event = type;
	packet->length = skb->len;
	if (meter->sent < EVENTS_BURST &&
	    !bpf_ringbuf_output(&podlane_events, packet, EVENT_SIZE, 0))
		meter->sent++;
	else
		meter->lost++;
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
