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

/*
 * Has the VXLAN device tunnel the packet to the node that packet->to says. Writing the headers here
 * (bpf_skb_adjust_room) would leave out the device and the node's stack, but it marks what TCP has
 * sent in one piece as dodgy, and most devices then have it cut up by the CPU: 7 % less throughput.
 */
static __always_inline int overlay_tunnel(struct __sk_buff *skb, struct packet *packet)
{
	const struct ipcache_value *to = (const void *)&packet->to;

	if (overlay_set_key(skb, packet, packet->source_identity, &to->node))
		return refused(DROP_NO_TUNNEL_KEY);
	return bpf_redirect(podlane_underlay.overlay_ifindex, 0);
}

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
