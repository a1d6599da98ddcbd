/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Delivery to an endpoint of this node: one IP hop, without the stack.
 *
 * The source's program decrements the TTL, writes the destination's hardware addresses and jumps
 * into the destination's policy program, which finds in struct packet what it needs to know.
 */
#pragma once

#include <linux/ip.h>
#include <linux/ipv6.h>

#include "packet.h"

#undef THIS_FILE
#define THIS_FILE SOURCE_L3

/* RFC 1141: the TTL is the high byte of its checksum word, so one less there is 0x0100 more here.
 */
static __always_inline void ipv4_decrement_ttl(struct iphdr *ip4)
{
	const __u32 check = (__u32)ip4->check + bpf_htons(0x0100);

	ip4->check = check + ((check + 1) >> 16); /* the carry, without a branch */
	ip4->ttl--;
}

/* The TTL ends here: the stack knows how to say so. */
#define L3_ENDS 1

/* One hop. Returns 0, L3_ENDS or a refusal. */
static __always_inline int l3_hop(const struct __sk_buff *skb, struct ethhdr *eth)
{
	struct ipv6hdr *ip6 = (void *)(eth + 1);
	struct iphdr *ip4 = (void *)(eth + 1);

	if ((void *)(ip4 + 1) > packet_end(skb))
		return refused(DROP_INVALID_PACKET);
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (ip6->hop_limit <= 1)
			return L3_ENDS;
		ip6->hop_limit--;
	} else {
		if (ip4->ttl <= 1)
			return L3_ENDS;
		ipv4_decrement_ttl(ip4);
	}
	return 0;
}

/*
 * Hands the packet to the destination's policy program. Returns TC_ACT_OK when the TTL ends here;
 * else only when that program is missing.
 */
static __always_inline int l3_deliver(struct __sk_buff *skb, struct packet *packet)
{
	const struct endpoint_value *to = &packet->to;
	struct ethhdr *eth = packet_data(skb);
	const int hop = l3_hop(skb, eth);

	if (hop)
		return hop == L3_ENDS ? TC_ACT_OK : hop;
	mac_write(eth->h_dest, &to->pod_mac);
	mac_write(eth->h_source, &to->host_mac);
	packet->peer_id = endpoint_id;
#ifdef ENABLE_DEBUG
	bpf_printk("podlane: endpoint %d sends %d bytes to endpoint %d", endpoint_id, skb->len,
		   to->lxc_id);
#endif
	bpf_tail_call(skb, &podlane_call_policy, to->lxc_id);
	return refused(DROP_ENDPOINT_NOT_READY);
}
