/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What every header of the datapath stands on: the kernel's types, the conventions for verdicts,
 * and access to packet headers.
 *
 * Verdicts: a function that decides over a packet returns a TC action (>= 0) or a refusal (< 0,
 * refusal.h). Only the programs themselves make a drop of it, drop.h.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* The generated headers: the loader's directories come first in the include path, the samples in
 * bpf/ last. */
#include <node_config.h>

#include <ep_config.h>

#define likely(condition)   __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

/* Keys of arrays. Not on the stack: what is there in some of the ways that meet keeps the verifier
 * from seeing them as one. */
const __u32 numbers[] = {0, 1, 2, 3};

/* Reserved identities, numbered as Cilium numbers them; workloads begin at 256. */
#define IDENTITY_ANY	     0
#define IDENTITY_HOST	     1
#define IDENTITY_WORLD	     2
#define IDENTITY_REMOTE_NODE 6
/* From here on a number means something on this node alone. */
#define IDENTITY_NODE_LOCAL (1 << 24)

/* Seen from the pod. Packed: one byte in map keys. */
enum traffic_direction {
	DIRECTION_INGRESS = 1,
	DIRECTION_EGRESS = 2,
} __attribute__((packed));

/* Six octets as the two words that they are compared and copied by, and two bytes of padding. */
struct mac_address {
	__u32 first4;
	__u16 last2;
};

union ipv6_address {
	__u8 octets[16];
	__be32 words[4];
};

/* Words in packets lie on even addresses only; every machine that runs this reads them in one go.
 */
static __always_inline __u32 *word_at(const void *octets)
{
	return (__u32 *)octets;
}

/* The same for eight octets. may_alias: whoever declared that memory had other types in mind. */
typedef __u64 __attribute__((may_alias)) quad;

static __always_inline const volatile quad *quads_at(const volatile void *octets)
{
	return octets;
}

static __always_inline void copy_16_octets(void *to, const void *from)
{
	const quad *source = from;
	quad *target = to;

	target[0] = source[0];
	target[1] = source[1];
}

static __always_inline bool mac_equal(const __u8 *octets, const volatile struct mac_address *mac)
{
	return !((*word_at(octets) ^ mac->first4) | (*(__u16 *)(octets + 4) ^ mac->last2));
}

static __always_inline void mac_write(__u8 *octets, const volatile struct mac_address *mac)
{
	*word_at(octets) = mac->first4;
	*(__u16 *)(octets + 4) = mac->last2;
}

static __always_inline bool mac_is_group(const __u8 *octets)
{
	return octets[0] & 1;
}

/* Multicast, the reserved range above it, and the limited broadcast address. */
static __always_inline bool ipv4_is_group(__be32 address)
{
	return bpf_ntohl(address) >= 0xe0000000;
}

static __always_inline bool ipv6_is_group(const void *address)
{
	return *(__u8 *)address == 0xff;
}

static __always_inline bool ipv6_is_link_local(const void *address)
{
	return (*(__be32 *)address & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline bool ipv6_is_unspecified(const volatile void *address)
{
	return !(quads_at(address)[0] | quads_at(address)[1]);
}

static __always_inline bool ipv6_equal(const void *address,
				       const volatile union ipv6_address *other)
{
	return !((quads_at(address)[0] ^ quads_at(other)[0]) |
		 (quads_at(address)[1] ^ quads_at(other)[1]));
}

static __always_inline void *packet_data(const struct __sk_buff *skb)
{
	return (void *)(long)skb->data;
}

static __always_inline void *packet_end(const struct __sk_buff *skb)
{
	return (void *)(long)skb->data_end;
}

/* The longer of the two IP headers: as far as nearly every packet is looked at. */
#define PACKET_HEADERS (ETH_HLEN + 40)
/* As far as anything is looked at by pointer: a neighbour solicitation with its option. */
#define PACKET_LOOKED_AT (ETH_HLEN + 40 + 32)

/*
 * Makes the headers accessible at packet_data(), as far as the packet goes. The kernel's own
 * packets have theirs in the linear part, so copying is for the odd ones (a packet socket's ring).
 * Pointers taken before are void.
 */
static __always_inline void packet_pull_headers(struct __sk_buff *skb)
{
	if (unlikely(packet_data(skb) + PACKET_HEADERS > packet_end(skb)))
		bpf_skb_pull_data(skb, skb->len < PACKET_LOOKED_AT ? skb->len : PACKET_LOOKED_AT);
	barrier(); /* both ways read the pointers anew, so the verifier sees one state, not two */
}
