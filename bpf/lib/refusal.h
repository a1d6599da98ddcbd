/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Why packets are dropped, and where that was decided.
 *
 * A refusal is a negative number that holds both, so it travels where a verdict travels and costs
 * nothing more. Each file that refuses says which it is, after its includes:
 *
 *     #undef THIS_FILE
 *     #define THIS_FILE SOURCE_PARSE
 *
 * The names live here alone. `DROP_INVALID_SOURCE_IP` is shown to people as `invalid source ip`;
 * Python's lists are held against these through BTF. Reasons from 130 on mean what they mean in
 * Cilium.
 */
#pragma once

#include "common.h"

enum drop_reason {
	/* What a pod's kernel sends to its link without being asked: MLD, router solicitations,
	 * duplicate address detection, mDNS. Multicast and broadcast have nowhere to go here. */
	DROP_LINK_LOCAL_NOISE = 1,
	/* An ARP request for something else than the gateway. */
	DROP_ARP_TARGET = 2,
	/* ARP in the name of somebody else. */
	DROP_ARP_SENDER = 3,
	/* A neighbour solicitation for something else than the gateway, or an advertisement to it. */
	DROP_ND_TARGET = 4,
	/* Neighbour discovery in the name of somebody else. */
	DROP_ND_SENDER = 5,
	/* More IPv6 extension headers than are followed to find the ports. */
	DROP_IPV6_EXTENSIONS = 6,

	DROP_INVALID_SOURCE_MAC = 130,
	DROP_INVALID_SOURCE_IP = 132,
	/* No policy entry allows it. */
	DROP_POLICY = 133,
	/* Truncated or malformed. */
	DROP_INVALID_PACKET = 134,
	/* Neither ARP nor an IP version that the endpoint has an address of; VLAN tags. */
	DROP_UNKNOWN_L3 = 139,
	/* Came through the tunnel without saying which. */
	DROP_NO_TUNNEL_KEY = 147,
	/* Came through the tunnel for somebody who isn't here. */
	DROP_UNROUTABLE = 151,
	/* The flow is allowed, but the map has no room for its entry. */
	DROP_CONNTRACK_FULL = 155,
	/* A fragment, or the beginning of a packet, without the ports that the entries ask for. */
	DROP_PORTS_MISSING = 157,
	/* Is to go through the tunnel, but nobody knows to which node. */
	DROP_NO_TUNNEL_ENDPOINT = 160,
	/* A pod sends what other nodes would take for this node's tunnel. */
	DROP_ENCAP_PROHIBITED = 170,
	/* Came through the tunnel under an identity, or from a node, that isn't its source's. */
	DROP_INVALID_IDENTITY = 171,
	/* A policy entry denies it. */
	DROP_POLICY_DENY = 181,
	/* The destination is known, but its policy program isn't in its slot. */
	DROP_ENDPOINT_NOT_READY = 203,
} __attribute__((packed));

enum source_file {
	SOURCE_BPF_LXC = 1,
	SOURCE_ARP = 2,
	SOURCE_L3 = 3,
	SOURCE_ND = 4,
	SOURCE_PARSE = 5,
	SOURCE_POLICY = 6,
	SOURCE_CONNTRACK = 7,
	SOURCE_BPF_OVERLAY = 8,
	SOURCE_OVERLAY = 9,
} __attribute__((packed));

#define REFUSAL_LINE_SHIFT 8
#define REFUSAL_FILE_SHIFT 24

/* A refusal for a drop_reason, here. */
#define refused(reason)                                                                            \
	(-(int)((reason) | __LINE__ << REFUSAL_LINE_SHIFT | THIS_FILE << REFUSAL_FILE_SHIFT))
