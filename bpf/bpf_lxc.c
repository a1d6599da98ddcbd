/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The programs of one endpoint.
 *
 * from_container: ingress of the node's end of the veth pair, everything that the pod sends.
 * policy: in podlane_call_policy[endpoint_id], tail-called by the source's from_container.
 * to_container: egress of the node's end, what the node's stack sends to the pod.
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
#include "lib/l3.h"
#include "lib/arp.h"
#include "lib/nd.h"

/* What an IPv4 packet of the pod must be like. Returns 0 or a negated drop_reason. */
static __always_inline int from_container_ipv4(struct __sk_buff *skb, const struct packet *packet)
{
	const struct ethhdr *eth = packet_data(skb);

	if ((void *)(eth + 1) > packet_end(skb))
		return -DROP_INVALID_PACKET;
	if (mac_is_group(eth->h_dest) || ipv4_is_group(packet->destination.address.words[0]))
		return -DROP_LINK_LOCAL_NOISE;
#ifdef ENABLE_SOURCE_IP_VERIFICATION
	if (packet->source.address.words[0] != endpoint_ipv4)
		return -DROP_INVALID_SOURCE_IP;
#endif
	return 0;
}

/* The same for IPv6 but for neighbour discovery. */
static __always_inline int from_container_ipv6(const struct packet *packet)
{
	if (ipv6_is_group(&packet->destination) || ipv6_is_link_local(&packet->destination))
		return -DROP_LINK_LOCAL_NOISE;
#ifdef ENABLE_SOURCE_IP_VERIFICATION
	if (!ipv6_equal(&packet->source, &endpoint_ipv6))
		return -DROP_INVALID_SOURCE_IP;
#endif
	return 0;
}

/* Finds out where the packet goes, or that it leaves the node. */
static __always_inline void from_container_find(struct packet *packet)
{
	const struct endpoint_value *to = endpoint_lookup(&packet->destination);

	if (to) {
		endpoint_copy(&packet->to, to);
	} else {
		packet->to.lxc_id = 0;
		packet->to.identity = IDENTITY_WORLD;
	}
	barrier();
}

/* The packet may leave the pod if policy says so: to whom? */
static __always_inline int from_container_forward(struct __sk_buff *skb, struct packet *packet)
{
	int verdict;

	from_container_find(packet);
	verdict = policy_check(skb, packet, packet->to.identity, DIRECTION_EGRESS);
	if (verdict)
		return verdict;
	if (packet->to.lxc_id)
		return l3_deliver(skb, packet);
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
		return -DROP_INVALID_PACKET;
	if (!mac_equal(eth->h_source, &pod_mac))
		return -DROP_INVALID_SOURCE_MAC;
	if (skb->vlan_present)
		return -DROP_UNKNOWN_L3;
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return arp_from_container(skb);
	if (!is_ip(skb))
		return -DROP_UNKNOWN_L3;
	verdict = parse(skb, packet);
	if (verdict)
		return verdict;
	if (packet->source.family == FAMILY_IPV4)
		verdict = from_container_ipv4(skb, packet);
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
	packet->endpoint_id = endpoint_id;
	packet->from_stack = false;
	verdict = from_container_verdict(skb, packet);
	return verdict < 0 ? drop(skb, verdict, DIRECTION_EGRESS) : verdict;
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
	verdict = policy_check(skb, packet, packet->source_identity, DIRECTION_INGRESS);
	if (verdict)
		return drop(skb, verdict, DIRECTION_INGRESS);
	return packet->from_stack ? TC_ACT_OK : bpf_redirect_peer(host_ifindex, 0);
}

/*
 * Who sent what comes from the stack: the node itself, a pod of this node whose packet the stack
 * has routed (a translated service address), or the world. A source address alone proves nothing:
 * the packet must have entered the node at that endpoint's interface.
 */
static __always_inline __u32 stack_identity(const struct __sk_buff *skb,
					    const struct packet *packet)
{
	struct endpoint_value *from;

	if (!skb->ingress_ifindex)
		return IDENTITY_HOST;
	from = endpoint_lookup(&packet->source);
	return from && from->ifindex == skb->ingress_ifindex ? from->identity : IDENTITY_WORLD;
}

static __always_inline int to_container_verdict(struct __sk_buff *skb, struct packet *packet)
{
	int verdict;

	packet_pull_headers(skb);
	if (!is_ip(skb))
		return TC_ACT_OK;
	verdict = parse(skb, packet);
	if (verdict)
		return verdict;
	/* Whatever the policy, the node must be able to find the pod. */
	if (nd_is(packet))
		return TC_ACT_OK;
	packet->source_identity = stack_identity(skb, packet);
	/*
	 * Read back, so that the verifier doesn't know the slot. One that it knows becomes a direct
	 * jump in the code, and emptying that slot waits for an RCU grace period: 15 ms instead of
	 * 2 us.
	 */
	barrier();
	bpf_tail_call(skb, &podlane_call_policy, packet->endpoint_id);
	return -DROP_ENDPOINT_NOT_READY;
}

SEC("tc")
int to_container(struct __sk_buff *skb)
{
	struct packet *packet = packet_here();
	int verdict;

	if (!packet)
		return TC_ACT_SHOT;
	packet->endpoint_id = endpoint_id;
	packet->from_stack = true;
	verdict = to_container_verdict(skb, packet);
	return verdict ? drop(skb, verdict, DIRECTION_INGRESS) : TC_ACT_OK;
}

/* Dual: bpf_printk() wants a GPL-compatible program. */
char LICENSE[] SEC("license") = "Dual BSD/GPL";
