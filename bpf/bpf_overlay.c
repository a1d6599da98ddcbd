/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The programs of the overlay (lib/overlay.h), once for the node.
 *
 * tunnel: in podlane_call_policy[0], tail-called by a pod's from_container with what it has found
 * out about the packet. It tunnels it to the node that the destination is on.
 *
 * from_overlay: ingress of the device, what other nodes have sent. A packet may enter if its source
 * isn't of this node and, where the ipcache knows it, has that identity and comes from that node;
 * who isn't known is the world, whatever the VNI says. It then goes into the policy program of the
 * destination's endpoint, as from another pod, or up the stack to the node itself.
 *
 * to_overlay: egress of the device. What pods send has its tunnel key already (from_container); what
 * the node's stack sends, or has routed for a pod, gets it here: for whom the ipcache knows from
 * there, else from the route to the range of the node's pods, which says where to and has VNI 0.
 * Thus the answer to a pod whom this node doesn't know yet finds its way.
 *
 * An endpoint's id is in what they count and tell of where the packet has one, else 0: the node.
 */

#include "lib/common.h"
#include "lib/endpoint_config.h"
#include "lib/drop.h"
#include "lib/endpoints.h"
#include "lib/packet.h"
#include "lib/parse.h"
#include "lib/nd.h"
#include "lib/ipcache.h"
#include "lib/overlay.h"

#undef THIS_FILE
#define THIS_FILE SOURCE_BPF_OVERLAY

/* parse() for a device that is no endpoint's: both families. Returns 0 or a refusal. */
static __always_inline int overlay_parse(struct __sk_buff *skb, struct packet *packet)
{
	int verdict = refused(DROP_UNKNOWN_L3);

	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		verdict = parse_ipv6(skb, packet);
	else if (skb->protocol == bpf_htons(ETH_P_IP))
		verdict = parse_ipv4(skb, packet);
	if (verdict)
		return verdict;
	barrier();
	parse_l4(skb, packet);
	barrier();
	return 0;
}

/* Who has sent it: 0 and packet->source_identity, or a refusal. The tunnel's key was read. */
static __always_inline int from_overlay_source(struct packet *packet)
{
	const struct bpf_tunnel_key *key = overlay_key(packet);
	const union ipv6_address *node = &packet->source.address;
	const struct ipcache_value *from;

	if (endpoint_lookup(&packet->source))
		return refused(DROP_INVALID_SOURCE_IP);
	packet->source_identity = IDENTITY_WORLD;
	from = ipcache_lookup(&packet->source);
	if (!from)
		return 0;
	if (from->flags & IPCACHE_FLAG_TUNNELLED)
		node = &from->node;
	else if (packet->source.family != OVERLAY_FAMILY)
		return refused(DROP_INVALID_IDENTITY);
	if (overlay_vni(from->identity) != key->tunnel_id || !overlay_is_from(packet, node))
		return refused(DROP_INVALID_IDENTITY);
	packet->source_identity = from->identity;
	return 0;
}

/* Delivers to an endpoint of this node. Returns only when its policy program is missing. */
static __always_inline int from_overlay_deliver(struct __sk_buff *skb, const struct packet *packet)
{
	const struct endpoint_value *to = &packet->to;
	struct ethhdr *eth = packet_data(skb);

	if ((void *)(eth + 1) > packet_end(skb))
		return refused(DROP_INVALID_PACKET);
	mac_write(eth->h_dest, &to->pod_mac);
	mac_write(eth->h_source, &to->host_mac);
	bpf_tail_call(skb, &podlane_call_policy, to->lxc_id);
	return refused(DROP_ENDPOINT_NOT_READY);
}

static __always_inline int from_overlay_verdict(struct __sk_buff *skb, struct packet *packet)
{
	const struct endpoint_value *to;
	int verdict;

	packet_pull_headers(skb);
	if (skb->vlan_present)
		return refused(DROP_UNKNOWN_L3);
	verdict = overlay_parse(skb, packet);
	if (verdict)
		return verdict;
	/* A pod would take it for its link's. */
	if (nd_is(packet))
		return refused(DROP_ND_SENDER);
	to = endpoint_lookup(&packet->destination);
	if (!to)
		return refused(DROP_UNROUTABLE);
	endpoint_copy(&packet->to, to);
	barrier();
	packet->where.endpoint_id = packet->to.lxc_id;
	packet->destination_identity = packet->to.identity;
	if (bpf_skb_get_tunnel_key(skb, overlay_key(packet), sizeof(struct bpf_tunnel_key),
				   OVERLAY_GET_FLAGS))
		return refused(DROP_NO_TUNNEL_KEY);
	verdict = from_overlay_source(packet);
	if (verdict)
		return verdict;
	trace(skb, packet, TRACE_FROM_OVERLAY);
	/* Its hardware address is somebody else's. */
	bpf_skb_change_type(skb, PACKET_HOST);
	if (packet->to.lxc_id && !(packet->to.flags & ENDPOINT_BY_STACK))
		return from_overlay_deliver(skb, packet);
	skb->mark = identity_mark(packet->source_identity);
	trace(skb, packet, TRACE_TO_STACK);
	return TC_ACT_OK;
}

SEC("tc")
int tunnel(struct __sk_buff *skb)
{
	struct packet *packet = packet_here();
	int verdict;

	if (!packet)
		return TC_ACT_SHOT;
	verdict = l3_hop(skb, packet_data(skb));
	if (verdict == L3_ENDS)
		return TC_ACT_OK;
	if (!verdict)
		verdict = overlay_tunnel(skb, packet);
	return verdict < 0 ? drop(skb, packet, verdict) : verdict;
}

SEC("tc")
int from_overlay(struct __sk_buff *skb)
{
	struct packet *packet = packet_here();
	int verdict;

	if (!packet)
		return TC_ACT_SHOT;
	packet_begin(packet, DIRECTION_INGRESS);
	packet->from_stack = false;
	packet->conntrack = 0;
	verdict = from_overlay_verdict(skb, packet);
	return verdict < 0 ? drop(skb, packet, verdict) : verdict;
}

/* Who has sent what comes from the stack: the node itself, a pod of this node, or somebody whose
 * packet it has routed. */
static __always_inline void to_overlay_source(const struct __sk_buff *skb, struct packet *packet)
{
	const struct endpoint_value *from;

	packet->source_identity = IDENTITY_REMOTE_NODE;
	if (!skb->ingress_ifindex)
		return;
	packet->source_identity = IDENTITY_WORLD;
	from = endpoint_lookup(&packet->source);
	if (from && endpoint_has_sent(from, skb)) {
		packet->source_identity = from->identity;
		packet->where.endpoint_id = from->lxc_id;
	}
}

/* Keeps where the route leads; its key's memory is about to be used. */
static __always_inline void to_overlay_route(struct packet *packet)
{
	const struct bpf_tunnel_key *key = overlay_key(packet);
	struct ipcache_value *via = (void *)&packet->to;

	via->flags = IPCACHE_FLAG_TUNNELLED;
#ifdef ENABLE_UNDERLAY_IPV6
#pragma unroll
	for (int i = 0; i < 4; i++)
		via->node.words[i] = key->local_ipv6[i];
#else
	via->node.words[0] = bpf_htonl(key->local_ipv4);
#endif
}

static __always_inline int to_overlay_verdict(struct __sk_buff *skb, struct packet *packet)
{
	const struct ipcache_value *to, *via = (const void *)&packet->to;
	int verdict;

	packet_pull_headers(skb);
	verdict = overlay_parse(skb, packet);
	if (verdict)
		return verdict;
	if (ipv6_is_group(&packet->destination) && packet->destination.family == FAMILY_IPV6)
		return refused(DROP_LINK_LOCAL_NOISE);
	to_overlay_source(skb, packet);
	packet->destination_identity = IDENTITY_WORLD;
	to = ipcache_lookup(&packet->destination);
	if (to)
		packet->destination_identity = to->identity;
	else
		to = via;
	if (!(to->flags & IPCACHE_FLAG_TUNNELLED))
		return refused(DROP_NO_TUNNEL_ENDPOINT);
	if (overlay_set_key(skb, packet, packet->source_identity, &to->node))
		return refused(DROP_NO_TUNNEL_KEY);
	trace(skb, packet, TRACE_TO_OVERLAY);
	return TC_ACT_OK;
}

SEC("tc")
int to_overlay(struct __sk_buff *skb)
{
	struct packet *packet = packet_here();
	int verdict;

	if (!packet)
		return TC_ACT_SHOT;
	((struct ipcache_value *)&packet->to)->flags = 0;
	if (!bpf_skb_get_tunnel_key(skb, overlay_key(packet), sizeof(struct bpf_tunnel_key),
				    OVERLAY_GET_FLAGS)) {
		/* From a pod: it has its key. */
		if (overlay_key(packet)->tunnel_id)
			return TC_ACT_OK;
		to_overlay_route(packet);
	}
	packet_begin(packet, DIRECTION_EGRESS);
	packet->from_stack = true;
	packet->conntrack = 0;
	verdict = to_overlay_verdict(skb, packet);
	return verdict < 0 ? drop(skb, packet, verdict) : verdict;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
