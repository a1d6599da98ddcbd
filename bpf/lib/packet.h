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

#include "endpoint_config.h"
#include "endpoints.h"

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

struct packet {
	/* As keys of podlane_endpoints. */
	struct endpoint_key source;
	struct endpoint_key destination;
	/* Where podlane_endpoints leads; lxc_id is 0 when not to a pod of this node. */
	struct endpoint_value to;
	/* Security identity of who sent it. */
	__u32 source_identity;
	/* Whose programs look at it. */
	__u16 endpoint_id;
	/* Network byte order, 0 when the packet hasn't got them. ICMP: the identifier of an echo,
	 * and the type. */
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	/* TCP: its flags. ICMP: the code. */
	__u8 flags;
	/* Whether ports, or type and code, were found. */
	__u8 has_ports;
	/* Sent to the pod by the node's stack, not by another pod's program. */
	__u8 from_stack;
	__u16 reserved;
	/* Where the transport header is; L4_NOWHERE in fragments after the first. */
	__u32 l4_offset;
	struct l4_header l4;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct packet);
} podlane_packet SEC(".maps");

/* Where the packet under way is written down; never NULL, which the verifier doesn't know. */
static __always_inline struct packet *packet_here(void)
{
	const __u32 only = 0;

	return bpf_map_lookup_elem(&podlane_packet, &only);
}
