/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What policy needs to know of the transport header: protocol and destination port, or the type for
 * ICMP.
 *
 * The common packet has them at a fixed place in the linear part. IPv4 options, IPv6 extension
 * headers and fragments take the slow way by bpf_skb_load_bytes(). A fragment after the first has
 * no ports, nor has a packet that ends before them, and none are made up: only policy entries
 * without a port apply.
 *
 * The result goes into two words of skb->cb, where the destination's policy program finds it after
 * the tail call. It is read back from there in the same program too: for the verifier each path
 * then continues with the same unknown words, so what follows is verified once, not once for each
 * way to find a port.
 */
#pragma once

#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "drop.h"

/* More than three in one packet is somebody hiding. */
#define IPV6_MAX_EXTENSIONS 3

#define IPV4_FRAGMENT_OFFSET 0x1fff
#define IPV6_FRAGMENT_OFFSET 0xfff8

/* Behind the longest chain of extensions; a mask, for that is a bound that the verifier sees. */
#define L4_OFFSET_MAX 0x3fff

/* The words of skb->cb. */
enum cb_word {
	CB_L4, /* union l4 */
	CB_HAS_PORT,
	CB_L4_OFFSET,
	CB_SOURCE_IDENTITY,
};

/* As it lies in struct policy_key. */
union l4 {
	struct {
		__u8 direction; /* 0 until it is asked about */
		__u8 protocol;
		/* Network byte order; the type for ICMP and ICMPv6. */
		__be16 port;
	};
	__u32 word;
};

/* The first bytes of any transport header. */
struct l4_start {
	__u8 icmp_type;
	__u8 icmp_code;
	__be16 destination_port;
};

struct ipv6_extension {
	__u8 nexthdr;
	/* In 8 bytes, less the first 8. Reserved in a fragment header, which is 8 bytes long. */
	__u8 length;
	__be16 fragment;
	__u8 data[4];
};

/* What was read, after l4_read(). */
static __always_inline union l4 l4_of(const struct __sk_buff *skb)
{
	return (union l4){.word = skb->cb[CB_L4]};
}

/* Notes where the transport header is; offset 0: nowhere in this packet. */
static __always_inline void l4_note(struct __sk_buff *skb, __u32 offset, __u8 protocol)
{
	skb->cb[CB_L4] = (union l4){.protocol = protocol}.word;
	skb->cb[CB_L4_OFFSET] = offset;
	skb->cb[CB_HAS_PORT] = 0;
}

/* Completes what was noted with the port, if the packet has one. */
static __always_inline void l4_read(struct __sk_buff *skb)
{
	const struct l4_start *start;
	struct l4_start copy;
	union l4 l4;
	__u32 offset;

	barrier(); /* or the compiler remembers what was noted, and so does the verifier */
	l4 = l4_of(skb);
	offset = skb->cb[CB_L4_OFFSET];
	if (unlikely(!offset))
		return;
	start = packet_data(skb) + (offset & L4_OFFSET_MAX);
	if (unlikely((void *)(start + 1) > packet_end(skb))) {
		start = &copy;
		if (bpf_skb_load_bytes(skb, offset, &copy, sizeof(copy)))
			return;
	}
	if (l4.protocol == IPPROTO_ICMP || l4.protocol == IPPROTO_ICMPV6)
		l4.port = bpf_htons(start->icmp_type);
	else
		l4.port = start->destination_port; /* of other protocols no entry asks it */
	skb->cb[CB_L4] = l4.word;
	skb->cb[CB_HAS_PORT] = 1;
}

static __always_inline void l4_find_ipv4(struct __sk_buff *skb, const struct iphdr *ip4)
{
	const bool later_fragment = ip4->frag_off & bpf_htons(IPV4_FRAGMENT_OFFSET);

	l4_note(skb, unlikely(later_fragment) ? 0 : ETH_HLEN + ip4->ihl * 4, ip4->protocol);
}

static __always_inline bool ipv6_is_extension(__u8 protocol)
{
	const __u64 extensions = 1ULL << IPPROTO_HOPOPTS | 1ULL << IPPROTO_ROUTING |
				 1ULL << IPPROTO_FRAGMENT | 1ULL << IPPROTO_DSTOPTS;

	return protocol < 64 && extensions >> protocol & 1;
}

/* Follows the extension headers after the fixed header. Returns 0 or a negated drop_reason. */
static __always_inline int l4_find_ipv6(struct __sk_buff *skb, const struct ipv6hdr *ip6)
{
	__u32 offset = ETH_HLEN + sizeof(*ip6);
	__u8 protocol = ip6->nexthdr;
	struct ipv6_extension extension;
	bool later_fragment = false;

#pragma clang loop unroll(disable)
	for (int i = 0; unlikely(ipv6_is_extension(protocol)); i++) {
		if (i == IPV6_MAX_EXTENSIONS)
			return -DROP_IPV6_EXTENSIONS;
		if (bpf_skb_load_bytes(skb, offset, &extension, sizeof(extension)))
			return -DROP_INVALID_PACKET;
		if (protocol != IPPROTO_FRAGMENT)
			offset += extension.length * 8;
		else if (extension.fragment & bpf_htons(IPV6_FRAGMENT_OFFSET))
			later_fragment = true;
		offset += sizeof(extension);
		protocol = extension.nexthdr;
		if (later_fragment)
			break;
	}
	l4_note(skb, later_fragment ? 0 : offset, protocol);
	return 0;
}
