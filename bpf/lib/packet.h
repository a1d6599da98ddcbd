/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What was found out about the packet under way, in memory of the CPU that handles it.
 *
 * from_container and to_container fill it, and the policy program finds it there after the tail
 * call. A program runs to its end on one CPU with softirqs off, and none of ours runs inside
 * another, so it belongs to one packet at a time.
 *
 * It is in a map because the verifier knows nothing of what is read back from one: however a packet
 * was parsed, what follows is verified once. In registers or on the stack each way to find a port
 * would be followed to the end. barrier() keeps the compiler from remembering what the verifier is
 * to forget.
 */
#pragma once

#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "endpoint_config.h"
#include "endpoints.h"
#include "refusal.h"

/* The first bytes of any transport header. */
struct l4_header {
	union {
		struct {
			__be16 source_port;
			__be16 destination_port;
		};
		struct {
			__u8 icmp_type;
			__u8 icmp_code;
			__sum16 icmp_checksum;
		};
	};
	__be16 icmp_id;
	__u8 unused[7];
	__u8 tcp_flags;
	__u8 window[2]; /* only so that 16 octets can be copied in two goes */
};

struct ipv6_extension {
	__u8 nexthdr;
	/* In 8 bytes, less the first 8. Reserved in a fragment header, which is 8 bytes long. */
	__u8 length;
	__be16 fragment;
	__u8 data[4];
};

/* Places in maps whose sizes are promises to the version before; 0 had stayed free. */
enum event_type {
	EVENT_CONNECTION = 0,
	EVENT_DROP = 1,
	EVENT_TRACE = 2,
	EVENT_POLICY_VERDICT = 3,
} __attribute__((packed));

#define EVENT_TYPES 4

/* Points of a packet's way that are told of. */
enum trace_point {
	TRACE_FROM_ENDPOINT = 1,
	TRACE_FROM_STACK = 2,
	TRACE_TO_ENDPOINT = 3,
	TRACE_TO_STACK = 4,
	TRACE_TO_OVERLAY = 5,
	TRACE_FROM_OVERLAY = 6,
} __attribute__((packed));

/* What has become of a connection. */
enum connection_change {
	CONNECTION_OPENED = 1,
	CONNECTION_CLOSED = 2, /* a RST, or a FIN of both sides */
} __attribute__((packed));

/* What drops are counted by. */
struct metrics_key {
	/* Whose programs look at the packet. */
	__u16 endpoint_id;
	enum drop_reason reason;
	enum traffic_direction direction;
};

struct policy_key {
	/* Of what follows, in bits. */
	__u32 prefix_length;
	__u32 identity;
	enum traffic_direction direction;
	__u8 protocol;
	/* Network byte order, so that a prefix of its bits is a range of ports. */
	__be16 port;
};

/* Of podlane_prefixes (policy.h). */
struct prefix_key {
	/* Of what follows, in bits. */
	__u32 prefix_length;
	/* enum address_family */
	__u32 family;
	/* IPv4: the first four bytes, the rest zero. */
	union ipv6_address address;
};

/* What a packet is to its flow (conntrack.h); 0: not tracked. */
enum conntrack_state {
	CONNTRACK_NEW = 1,
	CONNTRACK_ESTABLISHED = 2,
	CONNTRACK_REPLY = 3,
	CONNTRACK_RELATED = 4,
} __attribute__((packed));

struct conntrack_key {
	/* The endpoint's end of the flow, and the other. */
	union ipv6_address local;
	union ipv6_address remote;
	/* Network byte order; 0 of protocols that have none. */
	__be16 local_port;
	__be16 remote_port;
	__u16 endpoint_id;
	__u8 protocol;
	/* enum address_family, and CONNTRACK_ASKS. */
	__u8 family;
};

/* Of an ICMP echo: the endpoint's end asks. With the identifier 0 the ports don't tell. */
#define CONNTRACK_ASKS 4

struct conntrack_value {
	/* Nanoseconds since boot; dead from then on. */
	__u64 expires;
	/* By what policy last allowed the flow: its revision, and in the lower half the identity of
	 * the other end; FLOW_DENIED: it has denied the flow since. One word, so that no CPU sees
	 * half of another's. */
	__u64 allowed;
	/* Of the packet that opened it. */
	enum traffic_direction direction;
	/* What was seen of the opener, and of the replies. */
	__u8 seen[2];
	/* enum connection_change: what listeners could have heard of it last; 0: nothing. */
	__u8 told;
	/* When: in units of 2^OPENED_SHIFT nanoseconds since boot. */
	__u32 opened;
	/* By enum traffic_direction less one; counted only with ENABLE_FLOW_ACCOUNTING. */
	__u64 packets[2];
	__u64 bytes[2];
};

/* The packet that an ICMP error quotes. */
struct quoted {
	struct iphdr ip4;
	__u32 padding;
	/* Of IPv4 addresses and protocol, too. */
	struct ipv6hdr ip6;
	struct l4_header l4;
};

struct packet {
	/* When an event was sent: nanoseconds since boot. */
	__u64 time;
	struct metrics_key where;
	enum event_type event;
	/* Of a trace; of a connection its enum connection_change. */
	enum trace_point point;
	/* The endpoint of this node at the other end, 0 when there is none. */
	__u16 peer_id;
	/* With the Ethernet header. */
	__u32 length;
	/* Security identities; 0: not known. */
	__u32 source_identity;
	__u32 destination_identity;
	/* Of a refusal. */
	__u16 line;
	enum source_file file;
	/* Whether ports, or type and code, were found. */
	__u8 has_ports;
	/* As keys of podlane_endpoints. The source's family is 0 while nothing was read. */
	struct endpoint_key source;
	struct endpoint_key destination;
	/* Network byte order, 0 when the packet hasn't got them. ICMP: the identifier of an echo,
	 * and the type. */
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	/* TCP: its flags. ICMP: the code. */
	__u8 flags;
	/* Sent to the pod by the node's stack, not by another pod's program. */
	__u8 from_stack;
	enum conntrack_state conntrack;

	/* So far it is the record of an event (events.h). */

	/* Where podlane_endpoints leads; lxc_id is 0 when not to a pod of this node. */
	struct endpoint_value to;
	/* Where the transport header is; L4_NOWHERE in fragments after the first. */
	__u32 l4_offset;
	struct l4_header l4;
	struct ipv6_extension extension;
	struct policy_key policy_key;
	struct prefix_key prefix_key;
	/* What was decided: a TC action or a refusal. */
	__s32 verdict;
	/* Sent to a group on the link layer. */
	__u8 to_group;
	/* Whether it may open a flow. */
	__u8 opens;
	/* Whether it passes because of its flow, without a question. */
	__u8 passes;
	/* Of IPv6. */
	__u8 hop_limit;
	/* Not 0: it answers what the node's stack has brought, so the stack takes it. */
	__u8 by_stack;
	__u8 padding[3];
	/* What its flow's entry says if policy allows it now. */
	__u64 allowed;
	/* Its flow's key. */
	struct conntrack_key flow;
	__u8 unused[40];
	/* Also what its flow's entry begins with (conntrack.h), and from the verdict of policy on the
	 * tunnel's key (overlay.h). */
	struct quoted quoted;

	/* What outlasts the packet. */

	/* Events that were not sent, by type. */
	__u64 not_sent[EVENT_TYPES];
};

#define EVENT_SIZE offsetof(struct packet, to)

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct packet);
} podlane_packet SEC(".maps");

/* Where the packet under way is written down; never NULL, which the verifier doesn't know. */
static __always_inline struct packet *packet_here(void)
{
	return bpf_map_lookup_elem(&podlane_packet, &numbers[0]);
}

/* Forgets the packet before; what the parser sets in any case stays. */
static __always_inline void packet_begin(struct packet *packet, enum traffic_direction direction)
{
	packet->where.endpoint_id = endpoint_id;
	packet->where.direction = direction;
	packet->peer_id = 0;
	packet->source_identity = 0;
	packet->destination_identity = 0;
	packet->source.family = 0;
}
