/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The overlay: packets to pods of other nodes leave in VXLAN (RFC 7348), their VNI is the sender's
 * security identity. One device without addresses and without a table of its own; each packet says
 * where it goes (bpf_skb_set_tunnel_key).
 *
 * The outer packet must not be fragmented: pods' MTU leaves room for the outer headers, and "don't
 * fragment" is set. Over IPv4 it has no UDP checksum, as RFC 7348 wants it; over IPv6 it has one,
 * which devices compute.
 */
#pragma once

#include <linux/udp.h>

#include "events.h"
#include "ipcache.h"
#include "l3.h"
#include "packet.h"

#undef THIS_FILE
#define THIS_FILE SOURCE_OVERLAY

#ifdef ENABLE_OVERLAY

#define OVERLAY_TTL 64

#ifdef ENABLE_UNDERLAY_IPV6
#define OVERLAY_FAMILY	  FAMILY_IPV6
#define OVERLAY_GET_FLAGS BPF_F_TUNINFO_IPV6
#define OVERLAY_SET_FLAGS (BPF_F_DONT_FRAGMENT | BPF_F_TUNINFO_IPV6)
#else
#define OVERLAY_FAMILY	  FAMILY_IPV4
#define OVERLAY_GET_FLAGS 0
#define OVERLAY_SET_FLAGS (BPF_F_DONT_FRAGMENT | BPF_F_ZERO_CSUM_TX)
#endif

_Static_assert(sizeof(struct bpf_tunnel_key) <= sizeof(struct quoted), "has its memory");

/* Where the packet's tunnel key is: no quoted packet is looked at any more. */
static __always_inline struct bpf_tunnel_key *overlay_key(struct packet *packet)
{
	return (void *)&packet->quoted;
}

/* Returns what an identity is called on other nodes. */
static __always_inline __u32 overlay_vni(__u32 identity)
{
	return identity < IDENTITY_NODE_LOCAL ? identity : IDENTITY_WORLD;
}

/* Sends the packet to a node when the VXLAN device transmits it. Returns 0 or an error. */
static __always_inline long overlay_set_key(struct __sk_buff *skb, struct packet *packet,
					    __u32 identity, const union ipv6_address *node)
{
	struct bpf_tunnel_key *key = overlay_key(packet);

	key->tunnel_id = overlay_vni(identity);
	key->tunnel_tos = 0;
	key->tunnel_ttl = OVERLAY_TTL;
	key->tunnel_ext = 0;
	key->tunnel_label = 0;
#ifdef ENABLE_UNDERLAY_IPV6
#pragma unroll
	for (int i = 0; i < 4; i++) {
		key->remote_ipv6[i] = node->words[i];
		key->local_ipv6[i] = podlane_underlay.address.words[i];
	}
#else
	key->remote_ipv4 = bpf_ntohl(node->words[0]);
	key->local_ipv4 = bpf_ntohl(podlane_underlay.address.words[0]);
#endif
	return bpf_skb_set_tunnel_key(skb, key, sizeof(*key), OVERLAY_SET_FLAGS);
}

/* Whether a node is the sender of the tunnelled packet whose key was read. */
static __always_inline bool overlay_is_from(struct packet *packet, const union ipv6_address *node)
{
	const struct bpf_tunnel_key *key = overlay_key(packet);

#ifdef ENABLE_UNDERLAY_IPV6
	return !((key->remote_ipv6[0] ^ node->words[0]) | (key->remote_ipv6[1] ^ node->words[1]) |
		 (key->remote_ipv6[2] ^ node->words[2]) | (key->remote_ipv6[3] ^ node->words[3]));
#else
	return key->remote_ipv4 == bpf_ntohl(node->words[0]);
#endif
}

/* Has the VXLAN device tunnel the packet to the node that packet->to says. */
static __always_inline int overlay_by_device(struct __sk_buff *skb, struct packet *packet)
{
	const struct ipcache_value *to = (const void *)&packet->to;

	if (overlay_set_key(skb, packet, packet->source_identity, &to->node))
		return refused(DROP_NO_TUNNEL_KEY);
	return bpf_redirect(podlane_underlay.overlay_ifindex, 0);
}

#ifdef ENABLE_UNDERLAY_IPV6

static __always_inline int overlay_tunnel(struct __sk_buff *skb, struct packet *packet)
{
	return overlay_by_device(skb, packet);
}

#else

/* What is between the outer Ethernet header and the inner IP header. */
struct overlay_headers {
	struct iphdr ip;
	struct udphdr udp;
	__be32 vxlan_flags;
	__be32 vxlan_vni;
	struct ethhdr inner;
} __attribute__((packed));

_Static_assert(sizeof(struct bpf_fib_lookup) <= sizeof(struct quoted), "has its memory");

/* RFC 7348: the VNI is valid. */
#define OVERLAY_VXLAN_FLAGS 0x08000000
#define OVERLAY_ROOM                                                                               \
	(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |   \
	 BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH)

/* One packet in so many takes the device all the same. The stack then asks whether a neighbour of
 * whom it hasn't heard for long is still there; a program that looks it up doesn't make it ask. */
#define OVERLAY_PROBES 256

/* Returns the outer TOS, as the device has it: RFC 6040, section 4.1. The inner IP header is there. */
static __always_inline __u32 overlay_tos(const struct __sk_buff *skb, const struct ethhdr *eth)
{
	const __u8 *inner = (const void *)(eth + 1);
	const __u32 ecn = (skb->protocol == bpf_htons(ETH_P_IPV6) ? inner[1] >> 4 : inner[1]) & 3;

	return ecn == 3 ? 2 : ecn;
}

/* Asks the stack for the way of `length` bytes to a node. Returns whether it knows one. */
static __always_inline bool overlay_way(struct __sk_buff *skb, struct bpf_fib_lookup *way,
					const union ipv6_address *node, __u32 length)
{
	way->family = 2; /* AF_INET */
	way->l4_protocol = IPPROTO_UDP;
	way->sport = 0;
	way->dport = bpf_htons(TUNNEL_PORT);
	way->tot_len = length;
	/* The device forwards, and nobody's rules are about it. */
	way->ifindex = podlane_underlay.overlay_ifindex;
	way->tos = 0;
	way->ipv4_src = podlane_underlay.address.words[0];
	way->ipv4_dst = node->words[0];
	return bpf_fib_lookup(skb, way, sizeof(*way), 0) == BPF_FIB_LKUP_RET_SUCCESS;
}

static __always_inline __u32 two_words(__be32 address)
{
	return (address & 0xffff) + (address >> 16);
}

/* Writes the headers of a tunnelled packet of `length` bytes, its Ethernet header aside. */
static __always_inline void overlay_write(struct overlay_headers *headers, __u32 vni, __u32 length,
					  __u32 tos, __u32 hash, __be32 node)
{
	const __be32 source = podlane_underlay.address.words[0];
	__u32 sum = bpf_htons(0x4500 | tos) + bpf_htons(length) + bpf_htons(0x4000) +
		    bpf_htons(OVERLAY_TTL << 8 | IPPROTO_UDP) + two_words(source) + two_words(node);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*word_at(&headers->ip) = bpf_htonl(0x45000000 | tos << 16 | length);
	headers->ip.id = 0;
	headers->ip.frag_off = bpf_htons(0x4000); /* don't fragment */
	headers->ip.ttl = OVERLAY_TTL;
	headers->ip.protocol = IPPROTO_UDP;
	headers->ip.check = ~sum;
	headers->ip.saddr = source;
	headers->ip.daddr = node;
	/* Of a flow always the same, so that it keeps its way and its order. */
	headers->udp.source = bpf_htons(0x8000 | (hash ^ hash >> 16));
	headers->udp.dest = bpf_htons(TUNNEL_PORT);
	headers->udp.len = bpf_htons(length - sizeof(struct iphdr));
	headers->udp.check = 0;
	headers->vxlan_flags = bpf_htonl(OVERLAY_VXLAN_FLAGS);
	headers->vxlan_vni = bpf_htonl(vni << 8);
}

/*
 * Tunnels the packet to the node that packet->to says.
 *
 * A single packet gets its headers here and goes out by the device that leads to the node, a
 * microsecond earlier than through the VXLAN device, which keeps no route for what a program tells
 * it, and the node's stack behind it. What TCP has sent in one piece is left to the device:
 * bpf_skb_adjust_room would mark it as dodgy, and most devices then have it cut up by the CPU, 7 %
 * of the throughput. So is what the stack knows no neighbour for yet, or what doesn't fit.
 */
static __always_inline int overlay_tunnel(struct __sk_buff *skb, struct packet *packet)
{
	const __u32 length = skb->len - ETH_HLEN + sizeof(struct overlay_headers);
	struct bpf_fib_lookup *way = (void *)&packet->quoted;
	const struct ipcache_value *to = (const void *)&packet->to;
	struct overlay_headers *headers;
	struct ethhdr *eth = packet_data(skb);
	__u32 hash, tos;

	if (skb->gso_size || bpf_get_prandom_u32() % OVERLAY_PROBES == 0)
		return overlay_by_device(skb, packet);
	if (!overlay_way(skb, way, &to->node, length))
		return overlay_by_device(skb, packet);
	if ((void *)(eth + 1) + sizeof(struct iphdr) > packet_end(skb))
		return refused(DROP_INVALID_PACKET);
	tos = overlay_tos(skb, eth);
	hash = bpf_get_hash_recalc(skb);
	if (bpf_skb_adjust_room(skb, sizeof(*headers), BPF_ADJ_ROOM_MAC, OVERLAY_ROOM))
		return overlay_by_device(skb, packet);
	eth = packet_data(skb);
	headers = (void *)(eth + 1);
	if ((void *)(headers + 1) > packet_end(skb))
		return refused(DROP_INVALID_PACKET);
	__builtin_memcpy(&headers->inner, eth, sizeof(*eth));
	__builtin_memcpy(eth->h_dest, way->dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, way->smac, ETH_ALEN);
	eth->h_proto = bpf_htons(ETH_P_IP);
	overlay_write(headers, overlay_vni(packet->source_identity), length, tos, hash,
		      to->node.words[0]);
	return bpf_redirect(way->ifindex, 0);
}

#endif

/*
 * Sends a pod's packet to the node that packet->to says: jumps into the node's program for that,
 * which is in a slot that no endpoint has (to.lxc_id is 0). Once for the node, so that no endpoint's
 * verification pays for it.
 */
static __always_inline int overlay_send(struct __sk_buff *skb, const struct packet *packet)
{
	trace(skb, (struct packet *)packet, TRACE_TO_OVERLAY);
	bpf_tail_call(skb, &podlane_call_policy, packet->to.lxc_id);
	return refused(DROP_NO_TUNNEL_ENDPOINT);
}

/* Whether a pod sends what a node would take for the tunnel of another. */
static __always_inline bool overlay_is_forged(const struct packet *packet)
{
	return !((packet->protocol ^ IPPROTO_UDP) |
		 (packet->destination_port ^ bpf_htons(TUNNEL_PORT)));
}

#endif
