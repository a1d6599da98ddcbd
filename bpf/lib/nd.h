/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Neighbour discovery of a pod (RFC 4861), the IPv6 side of arp.h: solicitations for the gateway
 * are answered in place, advertisements of the pod about its own address go to the node, everything
 * else of it is the pod's kernel talking to a link that has no routers and no other neighbours.
 */
#pragma once

#include "packet.h"
#include "parse.h"

#undef THIS_FILE
#define THIS_FILE SOURCE_ND

#define ND_ROUTER_SOLICITATION	   133
#define ND_NEIGHBOUR_SOLICITATION  135
#define ND_NEIGHBOUR_ADVERTISEMENT 136
#define ND_REDIRECT		   137
#define ND_HOP_LIMIT		   255

#define ND_OPTION_TARGET_LINK_ADDRESS 2
#define ND_FLAGS_SOLICITED_OVERRIDE   0x60000000

/* A solicitation or an advertisement with the one option that both may carry. */
struct nd_message {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 flags;
	struct in6_addr target;
	__u8 option_type;
	__u8 option_length; /* in 8 bytes */
	__u8 option_mac[ETH_ALEN];
};

/*
 * Whether a parsed packet is a message of neighbour discovery. Only those right behind the fixed
 * header: RFC 6980 forbids fragments, and nobody sends it behind other extensions.
 */
static __always_inline bool nd_is(const struct packet *packet)
{
	const __u32 differs = (packet->protocol ^ IPPROTO_ICMPV6) |
			      (packet->l4_offset ^ (ETH_HLEN + sizeof(struct ipv6hdr))) |
			      (packet->source.family ^ FAMILY_IPV6);

	return !differs && packet->l4.icmp_type - ND_ROUTER_SOLICITATION <=
				   (unsigned int)(ND_REDIRECT - ND_ROUTER_SOLICITATION);
}

/* Whether a neighbour has sent it: a router that passes it on leaves less of its hop limit. */
static __always_inline bool nd_is_from_link(const struct packet *packet)
{
	return packet->hop_limit == ND_HOP_LIMIT;
}

/* Whether it ends on the link, at the node. */
static __always_inline bool nd_is_for_link(const struct packet *packet)
{
	const void *to = &packet->destination;

	return ipv6_is_link_local(to) || ipv6_is_group(to) || ipv6_equal(to, &gateway_ipv6);
}

/* Writes the advertisement over the solicitation, whose target is the gateway and stays. */
static __always_inline void nd_write_answer(struct ethhdr *eth, struct ipv6hdr *ip6,
					    struct nd_message *message)
{
	__u64 sum;

	mac_write(eth->h_dest, &pod_mac);
	mac_write(eth->h_source, &host_mac);
	ip6->payload_len = bpf_htons(sizeof(*message));
	copy_16_octets(&ip6->daddr, &ip6->saddr);
	copy_16_octets(&ip6->saddr, &message->target);
	message->type = ND_NEIGHBOUR_ADVERTISEMENT;
	message->checksum = 0;
	message->flags = bpf_htonl(ND_FLAGS_SOLICITED_OVERRIDE);
	message->option_type = ND_OPTION_TARGET_LINK_ADDRESS;
	message->option_length = 1;
	mac_write(message->option_mac, &host_mac);
	/* RFC 8200, 8.1: over addresses, length, protocol and message, which lie in a row. */
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&ip6->saddr,
			    2 * sizeof(ip6->saddr) + sizeof(*message),
			    bpf_htonl(sizeof(*message) + IPPROTO_ICMPV6));
	sum = (sum & 0xffff) + (sum >> 16);
	message->checksum = ~(sum + (sum >> 16));
}

static __always_inline int nd_answer(struct __sk_buff *skb)
{
	struct nd_message *message;
	struct ipv6hdr *ip6;
	struct ethhdr *eth;

	/* A solicitation may come without the option that the answer has. */
	if (bpf_skb_change_tail(skb, PACKET_LOOKED_AT, 0))
		return refused(DROP_INVALID_PACKET);
	bpf_skb_pull_data(skb, PACKET_LOOKED_AT);
	eth = packet_data(skb);
	ip6 = (void *)(eth + 1);
	message = (void *)(ip6 + 1);
	if ((void *)(message + 1) > packet_end(skb))
		return refused(DROP_INVALID_PACKET);
	nd_write_answer(eth, ip6, message);
	return answer_pod(skb);
}

/* Neighbour discovery on somebody else's link: anybody may be asked and answered, under one's own
 * name. Routers live elsewhere. */
static __always_inline int nd_from_chained(struct __sk_buff *skb, const struct packet *packet)
{
	const struct nd_message *message = packet_data(skb) + ETH_HLEN + sizeof(struct ipv6hdr);

	if (packet->l4.icmp_type == ND_ROUTER_SOLICITATION)
		return nd_is_for_link(packet) ? TC_ACT_OK : refused(DROP_ND_TARGET);
	if (packet->l4.icmp_type - ND_NEIGHBOUR_SOLICITATION > 1U)
		return refused(DROP_LINK_LOCAL_NOISE);
	if ((void *)&message->option_type > packet_end(skb) || !nd_is_from_link(packet) ||
	    message->code)
		return refused(DROP_INVALID_PACKET);
#ifdef ENABLE_SOURCE_IP_VERIFICATION
	if (!ipv6_is_unspecified(&packet->source) && !ipv6_is_link_local(&packet->source) &&
	    !ipv6_equal(&packet->source, &endpoint_ipv6))
		return refused(DROP_ND_SENDER);
	if (packet->l4.icmp_type == ND_NEIGHBOUR_ADVERTISEMENT &&
	    !ipv6_is_link_local(&message->target) && !ipv6_equal(&message->target, &endpoint_ipv6))
		return refused(DROP_ND_SENDER);
#endif
	return TC_ACT_OK;
}

/* Decides over a message of neighbour discovery of the pod. */
static __always_inline int nd_from_container(struct __sk_buff *skb, const struct packet *packet)
{
#ifdef ENABLE_ARP_RESPONDER
	const struct nd_message *message = packet_data(skb) + ETH_HLEN + sizeof(struct ipv6hdr);

	if (endpoint_chained)
		return nd_from_chained(skb, packet);
	/* No routers live here, and asking under no address is duplicate address detection. */
	if (packet->l4.icmp_type - ND_NEIGHBOUR_SOLICITATION > 1U ||
	    ipv6_is_unspecified(&packet->source))
		return refused(DROP_LINK_LOCAL_NOISE);
	if ((void *)&message->option_type > packet_end(skb) ||
	    !nd_is_from_link(packet) || message->code)
		return refused(DROP_INVALID_PACKET);
	if (!ipv6_is_link_local(&packet->source) && !ipv6_equal(&packet->source, &endpoint_ipv6))
		return refused(DROP_ND_SENDER);
	if (packet->l4.icmp_type == ND_NEIGHBOUR_ADVERTISEMENT) {
		if (!ipv6_equal(&message->target, &endpoint_ipv6))
			return refused(DROP_ND_SENDER);
		/* The stack would route it: past policy. */
		return nd_is_for_link(packet) ? TC_ACT_OK : refused(DROP_ND_TARGET);
	}
	if (!ipv6_equal(&message->target, &gateway_ipv6))
		return refused(DROP_ND_TARGET);
	return nd_answer(skb);
#else
	if (endpoint_chained)
		return nd_from_chained(skb, packet);
	if (!nd_is_from_link(packet))
		return refused(DROP_INVALID_PACKET);
	return nd_is_for_link(packet) ? TC_ACT_OK : refused(DROP_ND_TARGET);
#endif
}
