/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From the headers of a packet to struct packet: addresses, protocol and ports, or the type for
 * ICMP.
 *
 * The common packet has them at a fixed place in the linear part. IPv4 options, IPv6 extension
 * headers, fragments and what is short take the slow way by bpf_skb_load_bytes(), 17 ns more. A
 * fragment after the first has no ports, nor has a packet that ends before them, and none are made
 * up: only policy entries without a port apply.
 *
 * Both from_container and to_container are verified with this inside, for every endpoint, and there
 * a branch costs as much as eight instructions. So what is rare is computed rather than decided: a
 * number of the protocol's kind instead of questions, multiplication by 0 or 1 instead of ifs, and
 * barrier_var() where the compiler would make them branches again.
 */
#pragma once

#include "packet.h"

#undef THIS_FILE
#define THIS_FILE SOURCE_PARSE

#define IPV4_FRAGMENT_OFFSET 0x1fff
#define IPV6_FRAGMENT_OFFSET 0xfff8

/* Behind the longest chain of extensions; a mask, for that is a bound that the verifier sees. */
#define L4_OFFSET_MAX 0x3fff
/* No transport header that has ports, or a type, is shorter. */
#define L4_SHORTEST 8
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* Beyond the end of any packet: what is loaded from there is zeros and an error. */
#define L4_NOWHERE 0xffffffff

#define KIND_EXTENSION 1 /* an IPv6 extension header, one that we step over */
#define KIND_FRAGMENT  2
#define KIND_ICMP      4
#define KIND_PORTS     16
#define KIND_LENGTH    8 /* an extension header with a length, in units of this many bytes */

const __u8 protocol_kinds[256] = {
	[IPPROTO_HOPOPTS] = KIND_EXTENSION | KIND_LENGTH,
	[IPPROTO_ROUTING] = KIND_EXTENSION | KIND_LENGTH,
	[IPPROTO_DSTOPTS] = KIND_EXTENSION | KIND_LENGTH,
	[IPPROTO_FRAGMENT] = KIND_EXTENSION | KIND_FRAGMENT,
	[IPPROTO_TCP] = KIND_PORTS,
	[IPPROTO_UDP] = KIND_PORTS,
	[IPPROTO_SCTP] = KIND_PORTS,
	[IPPROTO_ICMP] = KIND_ICMP,
	[IPPROTO_ICMPV6] = KIND_ICMP,
};

/* Returns 1 for a protocol whose header begins with ports or a type, else 0. */
static __always_inline __u64 protocol_has_ports(__u8 protocol)
{
	const __u64 kind = protocol_kinds[protocol];

	return (kind / KIND_PORTS | kind / KIND_ICMP) & 1;
}

/* Returns 1 for a number of 16 bits that isn't 0. */
static __always_inline __u64 not_zero(__u64 number)
{
	barrier_var(number);
	number = -number >> 63;
	barrier_var(number);
	return number;
}

/* Version 4, and a length of five words or more. */
static __always_inline bool ipv4_is_sound(const struct iphdr *ip4)
{
	return *(__u8 *)ip4 - 0x45U <= 10;
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, struct packet *packet)
{
	const struct iphdr *ip4 = packet_data(skb) + ETH_HLEN;

	if ((void *)(ip4 + 1) > packet_end(skb) || !ipv4_is_sound(ip4))
		return refused(DROP_INVALID_PACKET);
	endpoint_key_ipv4(&packet->source, ip4->saddr);
	endpoint_key_ipv4(&packet->destination, ip4->daddr);
	packet->protocol = ip4->protocol;
	packet->l4_offset = (ETH_HLEN + ip4->ihl * 4) |
			    -not_zero(ip4->frag_off & bpf_htons(IPV4_FRAGMENT_OFFSET));
	return 0;
}

/* A place in the chain of headers, and what is there. */
struct ipv6_walk {
	__u64 offset;
	__u64 protocol;
	__u64 kind;
};

/* Steps over the extension header at walk->offset. What the packet hasn't got reads as zeros. */
static __always_inline void ipv6_step(struct __sk_buff *skb, struct ipv6_walk *walk,
				      struct ipv6_extension *extension)
{
	__u64 later_fragment;

	bpf_skb_load_bytes(skb, walk->offset, extension, sizeof(*extension));
	later_fragment = not_zero(extension->fragment & bpf_htons(IPV6_FRAGMENT_OFFSET)) &
			 walk->kind / KIND_FRAGMENT;
	walk->offset += sizeof(*extension) + extension->length * (walk->kind & KIND_LENGTH);
	walk->offset |= -later_fragment;
	walk->protocol = extension->nexthdr;
	walk->kind = protocol_kinds[walk->protocol];
	barrier_var(walk->kind);
	walk->kind &= later_fragment - 1; /* behind its header there is data */
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, struct packet *packet)
{
	const struct ipv6hdr *ip6 = packet_data(skb) + ETH_HLEN;
	struct ipv6_walk walk = {.offset = ETH_HLEN + sizeof(*ip6)};

	if ((void *)(ip6 + 1) > packet_end(skb) || ip6->version != 6)
		return refused(DROP_INVALID_PACKET);
	endpoint_key_ipv6(&packet->source, &ip6->saddr);
	endpoint_key_ipv6(&packet->destination, &ip6->daddr);
	packet->hop_limit = ip6->hop_limit;
	walk.protocol = ip6->nexthdr;
	walk.kind = protocol_kinds[walk.protocol];
	if (unlikely(walk.kind & KIND_EXTENSION)) {
		ipv6_step(skb, &walk, &packet->extension);
		if (walk.kind & KIND_EXTENSION)
			ipv6_step(skb, &walk, &packet->extension);
		if (walk.kind & KIND_EXTENSION)
			ipv6_step(skb, &walk, &packet->extension);
		/* More than three in one packet is somebody hiding. Behind the end all is zeros,
		 * which says "one more". */
		if (walk.kind & KIND_EXTENSION)
			return walk.offset < skb->len ? refused(DROP_IPV6_EXTENSIONS)
						      : refused(DROP_INVALID_PACKET);
	}
	packet->protocol = walk.protocol;
	packet->l4_offset = walk.offset;
	return 0;
}

/* Brings the beginning of the transport header to packet->l4, zeros where the packet ends before.
 * Returns 0 or, when not even the ports are there, an error. */
static __always_inline long parse_l4_header(struct __sk_buff *skb, struct packet *packet)
{
	const __u32 offset = packet->l4_offset;
	const struct l4_header *start = packet_data(skb) + (offset & L4_OFFSET_MAX);
	long error;

	if (likely((void *)(start + 1) <= packet_end(skb) && offset <= L4_OFFSET_MAX)) {
		copy_16_octets(&packet->l4, start);
		return 0;
	}
	error = bpf_skb_load_bytes(skb, offset, &packet->l4, sizeof(packet->l4));
	if (error) {
		error = bpf_skb_load_bytes(skb, offset, &packet->l4, L4_SHORTEST);
		/* A fragment that ends before TCP's flags may hide a SYN (RFC 1858): it is one. */
		packet->l4.tcp_flags = TCP_SYN & ~(error >> 63);
	}
	return error;
}

static __always_inline void parse_l4(struct __sk_buff *skb, struct packet *packet)
{
	const struct l4_header *l4 = &packet->l4;

	packet->has_ports = 1 + (parse_l4_header(skb, packet) >> 63);
	barrier();
	packet->source_port = l4->source_port;
	packet->destination_port = l4->destination_port;
	packet->flags = l4->tcp_flags;
	if (protocol_kinds[packet->protocol] & KIND_ICMP) {
		packet->source_port = l4->icmp_id;
		packet->destination_port = bpf_htons(l4->icmp_type);
		packet->flags = l4->icmp_code;
	}
}

/* Parses a packet of a family that the endpoint has an address of. Returns 0 or a negated
 * drop_reason. */
static __always_inline int parse(struct __sk_buff *skb, struct packet *packet)
{
	int verdict = refused(DROP_UNKNOWN_L3);

	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (endpoint_has_ipv6)
			verdict = parse_ipv6(skb, packet);
	} else if (endpoint_has_ipv4 && skb->protocol == bpf_htons(ETH_P_IP)) {
		verdict = parse_ipv4(skb, packet);
	}
	if (verdict)
		return verdict;
	barrier();
	parse_l4(skb, packet);
	barrier();
	return 0;
}
