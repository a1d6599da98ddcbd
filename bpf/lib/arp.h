/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * ARP of a pod (RFC 826). Its only neighbour is the gateway: that request is answered in place with
 * the node's end of the veth pair and goes straight back. Answers of the pod about its own address
 * go to the node, which asks when it sends to the pod.
 */
#pragma once

#include "packet.h"

#undef THIS_FILE
#define THIS_FILE SOURCE_ARP

/* Spelled out here because <linux/if_arp.h> drags in the C library's socket headers. */
#define ARP_HARDWARE_ETHERNET 1
#define ARP_REQUEST	      1
#define ARP_REPLY	      2

struct arp_ipv4 {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender_ip[4];
	__u8 target_mac[ETH_ALEN];
	__u8 target_ip[4];
};

static __always_inline bool arp_is_ethernet_ipv4(const struct arp_ipv4 *arp)
{
	return !((arp->hardware ^ bpf_htons(ARP_HARDWARE_ETHERNET)) |
		 (arp->protocol ^ bpf_htons(ETH_P_IP)) | (arp->hardware_length ^ ETH_ALEN) |
		 (arp->protocol_length ^ sizeof(__be32)));
}

static __always_inline int arp_answer(struct __sk_buff *skb, struct ethhdr *eth,
				      struct arp_ipv4 *arp)
{
	mac_write(eth->h_dest, &pod_mac);
	mac_write(eth->h_source, &host_mac);
	arp->operation = bpf_htons(ARP_REPLY);
	mac_write(arp->target_mac, &pod_mac);
	mac_write(arp->sender_mac, &host_mac);
	*word_at(arp->target_ip) = endpoint_ipv4;
	*word_at(arp->sender_ip) = gateway_ipv4;
	return answer_pod(skb);
}

/* ARP on somebody else's link: anybody may be asked and answered, under one's own name. */
static __always_inline int arp_from_chained(struct __sk_buff *skb)
{
#ifdef ENABLE_SOURCE_IP_VERIFICATION
	const struct arp_ipv4 *arp = packet_data(skb) + ETH_HLEN;
	__be32 sender_ip;

	if ((void *)(arp + 1) > packet_end(skb) || !arp_is_ethernet_ipv4(arp))
		return refused(DROP_INVALID_PACKET);
	sender_ip = *word_at(arp->sender_ip);
	if (!mac_equal(arp->sender_mac, &pod_mac) || (sender_ip && sender_ip != endpoint_ipv4))
		return refused(DROP_ARP_SENDER);
#endif
	return TC_ACT_OK;
}

static __always_inline int arp_from_container(struct __sk_buff *skb)
{
#ifdef ENABLE_ARP_RESPONDER
	struct ethhdr *eth = packet_data(skb);
	struct arp_ipv4 *arp = (void *)(eth + 1);
	__be32 sender_ip, target_ip;

	if (endpoint_chained)
		return arp_from_chained(skb);
	if (!endpoint_has_ipv4)
		return refused(DROP_UNKNOWN_L3);
	if ((void *)(arp + 1) > packet_end(skb) || !arp_is_ethernet_ipv4(arp))
		return refused(DROP_INVALID_PACKET);
	sender_ip = *word_at(arp->sender_ip);
	target_ip = *word_at(arp->target_ip);
	if (!mac_equal(arp->sender_mac, &pod_mac))
		return refused(DROP_ARP_SENDER);
	/* Address conflict detection (RFC 5227) asks with no sender address, announcements name
	 * one's own as target. */
	if (!sender_ip || target_ip == endpoint_ipv4)
		return refused(DROP_LINK_LOCAL_NOISE);
	if (sender_ip != endpoint_ipv4)
		return refused(DROP_ARP_SENDER);
	if (arp->operation == bpf_htons(ARP_REPLY))
		return TC_ACT_OK;
	if (arp->operation != bpf_htons(ARP_REQUEST) || target_ip != gateway_ipv4)
		return refused(DROP_ARP_TARGET);
	return arp_answer(skb, eth, arp);
#else
	return endpoint_chained ? arp_from_chained(skb) : TC_ACT_OK;
#endif
}
