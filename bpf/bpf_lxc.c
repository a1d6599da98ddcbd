/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The programs of one endpoint.
 *
 * from_container: ingress of the node's end of the veth pair, everything that the pod sends.
 * policy: in podlane_call_policy[endpoint_id], tail-called by the source's from_container.
 * to_container: egress of the node's end, what the node's stack sends to the pod.
 *
 * On an interface that another CNI plugin has made (endpoint_chained) the first and the last only
 * decide whether a packet may pass; that plugin's bridge or routes take it where it goes.
 *
 * A packet between two pods of this node runs from_container of the source and policy of the
 * destination, both in one go at the source's interface, and continues as received by the
 * destination's pod; the stack never sees it. Everything else that may leave the pod goes up the
 * node's stack. A TTL that ends here is the stack's too: it knows how to say "time exceeded".
 */

#include "lib/common.h"
#include "lib/endpoint_config.h"
#include "lib/drop.h"
#include "lib/endpoints.h"
#include "lib/packet.h"
#include "lib/parse.h"
#include "lib/policy.h"
#include "lib/conntrack.h"
#include "lib/l3.h"
#include "lib/arp.h"
#include "lib/nd.h"
#include "lib/ipcache.h"
#include "lib/overlay.h"

#undef THIS_FILE
#define THIS_FILE SOURCE_BPF_LXC

/* What an IPv4 packet of the pod must be like. Returns 0 or a refusal. */
static __always_inline int from_container_ipv4(const struct packet *packet)
{
	if (packet->to_group || ipv4_is_group(packet->destination.address.words[0]))
		return refused(DROP_LINK_LOCAL_NOISE);
#ifdef ENABLE_SOURCE_IP_VERIFICATION
	if (packet->source.address.words[0] != endpoint_ipv4)
		return refused(DROP_INVALID_SOURCE_IP);
#endif
	return 0;
}

/* The same for IPv6 but for neighbour discovery. */
static __always_inline int from_container_ipv6(const struct packet *packet)
{
	if (ipv6_is_group(&packet->destination) || ipv6_is_link_local(&packet->destination))
		return refused(DROP_LINK_LOCAL_NOISE);
#ifdef ENABLE_SOURCE_IP_VERIFICATION
	if (!ipv6_equal(&packet->source, &endpoint_ipv6))
		return refused(DROP_INVALID_SOURCE_IP);
#endif
	return 0;
}

/* Whether the packet may pass between the endpoint and `peer` at `address`: 0, or a refusal. */
static __always_inline int admit(struct __sk_buff *skb, struct packet *packet, __u32 peer,
				 const struct endpoint_key *address,
				 enum traffic_direction direction)
{
#ifdef ENABLE_CONNTRACK
	int verdict;

	packet->policy_key.identity = peer;
	conntrack_find(skb, packet, peer, direction);
	barrier();
	if (packet->passes)
		return 0;
	verdict = policy_verdict(skb, packet, address);
	return conntrack_conclude(skb, packet, verdict, direction);
#else
	packet->policy_key.identity = peer;
	packet->conntrack = 0;
	return policy_verdict(skb, packet, address);
#endif
}

#ifdef ENABLE_CLUSTER
_Static_assert(sizeof(struct ipcache_value) == sizeof(struct endpoint_value), "copied as one");
#endif

/* Finds out where the packet goes: to an endpoint of this node, to the node itself, to another node,
 * or away. */
static __always_inline void from_container_find(struct packet *packet)
{
	const struct endpoint_value *to = endpoint_lookup(&packet->destination);

	packet->to.lxc_id = 0;
	packet->to.identity = IDENTITY_WORLD;
	packet->to.flags = 0;
	packet->by_stack = 0;
#ifdef ENABLE_CLUSTER
	if (!to)
		to = (const void *)ipcache_lookup(&packet->destination);
#endif
	if (to)
		endpoint_copy(&packet->to, to);
	barrier();
	packet->peer_id = packet->to.lxc_id;
	packet->destination_identity = packet->to.identity;
}

/* The packet may leave the pod if policy says so: to whom? */
static __always_inline int from_container_forward(struct __sk_buff *skb, struct packet *packet)
{
	__u32 past_stack;

	from_container_find(packet);
	trace(skb, packet, TRACE_FROM_ENDPOINT);
	packet->verdict = admit(skb, packet, packet->destination_identity, &packet->destination,
			DIRECTION_EGRESS);
	barrier();
	if (packet->verdict)
		return packet->verdict;
	if (endpoint_chained) {
		skb->mark = identity_mark(endpoint_identity);
		trace(skb, packet, TRACE_TO_STACK);
		return TC_ACT_OK;
	}
	/* All bits, or none for an answer that only the stack can give. */
	past_stack = packet->by_stack - 1;
	barrier_var(past_stack);
#ifndef ENABLE_HOST_ROUTING
	if (packet->to.lxc_id & past_stack && !(packet->to.flags & ENDPOINT_BY_STACK))
		return l3_deliver(skb, packet);
#endif
#ifdef ENABLE_OVERLAY
	if (packet->to.flags & past_stack & IPCACHE_FLAG_TUNNELLED)
		return overlay_send(skb, packet);
	if (overlay_is_forged(packet))
		return refused(DROP_ENCAP_PROHIBITED);
#endif
	trace(skb, packet, TRACE_TO_STACK);
#ifdef ENABLE_DEBUG
	bpf_printk("podlane: endpoint %d sends %d bytes to the stack", endpoint_id, skb->len);
#endif
	return TC_ACT_OK;
}

static __always_inline int from_container_verdict(struct __sk_buff *skb, struct packet *packet)
{
	struct ethhdr *eth;
	int verdict;

	packet_pull_headers(skb);
	eth = packet_data(skb);
	if ((void *)(eth + 1) > packet_end(skb))
		return refused(DROP_INVALID_PACKET);
	if (!mac_equal(eth->h_source, &pod_mac))
		return refused(DROP_INVALID_SOURCE_MAC);
	packet->to_group = mac_is_group(eth->h_dest);
	if (skb->vlan_present)
		return refused(DROP_UNKNOWN_L3);
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return arp_from_container(skb);
	verdict = parse(skb, packet);
	if (verdict)
		return verdict;
	if (packet->source.family == FAMILY_IPV4)
		verdict = from_container_ipv4(packet);
	else if (nd_is(packet))
		return nd_from_container(skb, packet);
	else
		verdict = from_container_ipv6(packet);
	if (verdict)
		return verdict;
	return from_container_forward(skb, packet);
}

SEC("tc")
int from_container(struct __sk_buff *skb)
{
	struct packet *packet = packet_here();
	int verdict;

	if (!packet)
		return TC_ACT_SHOT;
	packet_begin(packet, DIRECTION_EGRESS);
	packet->source_identity = endpoint_identity;
	packet->from_stack = false;
	verdict = from_container_verdict(skb, packet);
	if (verdict < 0)
		return drop(skb, packet, verdict);
#ifdef ENABLE_HOST_ROUTING
	/* Filters that others have put behind this one see it before the stack does. */
	if (verdict == TC_ACT_OK)
		return TC_ACT_UNSPEC;
#endif
	return verdict;
}

/*
 * Tail-called. From another pod the packet has the hardware addresses already and enters the pod
 * past any other queue; from the stack it is on its way.
 */
SEC("tc")
int policy(struct __sk_buff *skb)
{
	struct packet *packet = packet_here();
	int verdict;

	if (!packet)
		return TC_ACT_SHOT;
	packet->where.endpoint_id = endpoint_id;
	packet->where.direction = DIRECTION_INGRESS;
	packet->destination_identity = endpoint_identity;
	verdict = admit(skb, packet, packet->source_identity, &packet->source, DIRECTION_INGRESS);
	if (verdict)
		return drop(skb, packet, verdict);
	trace(skb, packet, TRACE_TO_ENDPOINT);
	return packet->from_stack ? TC_ACT_OK : bpf_redirect_peer(host_ifindex, 0);
}

/*
 * Who sent what comes from the stack: the node itself, a pod of this node whose packet the stack
 * has routed (a translated service address), another node or a pod there, or the world. A source
 * address alone proves nothing: the packet must have entered the node at that endpoint's interface,
 * or at the one that leads to the other nodes and from an address that isn't tunnelled to. A chained
 * endpoint's is marked, which only the node can do.
 */
static __always_inline void to_container_find(const struct __sk_buff *skb, struct packet *packet)
{
	const struct endpoint_value *from;

	packet->source_identity = IDENTITY_HOST;
	if (!skb->ingress_ifindex)
		return;
	packet->source_identity = IDENTITY_WORLD;
	from = endpoint_lookup(&packet->source);
	if (from && endpoint_has_sent(from, skb)) {
		packet->source_identity = from->identity;
		packet->peer_id = from->lxc_id;
	}
#ifdef ENABLE_CLUSTER
	if (!from && skb->ingress_ifindex == podlane_underlay.ifindex)
		packet->source_identity = ipcache_routed_identity(&packet->source);
#endif
#ifdef ENABLE_OVERLAY
	if (skb->ingress_ifindex == podlane_underlay.overlay_ifindex &&
	    (skb->mark & IDENTITY_MARK) == IDENTITY_MARK)
		packet->source_identity = identity_of_mark(skb->mark);
#endif
}

static __always_inline int to_container_verdict(struct __sk_buff *skb, struct packet *packet)
{
	int verdict;

	packet_pull_headers(skb);
	/* Whatever the policy, the node must be able to find the pod: ARP, ND. */
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return TC_ACT_OK;
	verdict = parse(skb, packet);
	if (verdict)
		return verdict;
	if (nd_is(packet) && nd_is_from_link(packet))
		return TC_ACT_OK;
	to_container_find(skb, packet);
	trace(skb, packet, TRACE_FROM_STACK);
	/*
	 * Read back, so that the verifier doesn't know the slot. One that it knows becomes a direct
	 * jump in the code, and emptying that slot waits for an RCU grace period: 15 ms instead of
	 * 2 us.
	 */
	barrier();
	bpf_tail_call(skb, &podlane_call_policy, packet->where.endpoint_id);
	return refused(DROP_ENDPOINT_NOT_READY);
}

SEC("tc")
int to_container(struct __sk_buff *skb)
{
	struct packet *packet = packet_here();
	int verdict;

	if (!packet)
		return TC_ACT_SHOT;
	packet_begin(packet, DIRECTION_INGRESS);
	packet->destination_identity = endpoint_identity;
	packet->from_stack = true;
	verdict = to_container_verdict(skb, packet);
	return verdict ? drop(skb, packet, verdict) : TC_ACT_OK;
}

/* Dual: bpf_printk() wants a GPL-compatible program. */
char LICENSE[] SEC("license") = "Dual BSD/GPL";
