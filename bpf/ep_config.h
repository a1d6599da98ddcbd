/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Sample of an endpoint's switches, at their defaults. The loader writes one for each endpoint into
 * <state>/<id>/, which is found first. Endpoints with the same switches share one compiled object:
 * what differs from pod to pod (addresses, identity, interface) is not here but in .rodata
 * (lib/endpoint_config.h).
 *
 * The name in brackets is the option's name in the loader's API and on the command line.
 */
#pragma once

/* [debug] Print what becomes of each packet of the pod, and each drop, to the kernel's trace pipe
 * (/sys/kernel/tracing/trace_pipe). */
/* #define ENABLE_DEBUG */

/* [source-ip-verification] Drop packets whose source address is not the endpoint's. Off for pods
 * that forward for others. The source's hardware address is checked in any case. */
#define ENABLE_SOURCE_IP_VERIFICATION

/* [arp-responder] Answer ARP and neighbour solicitations for the gateway in the program. Off: they
 * go to the node's stack, which answers if the gateway's address is its own. */
#define ENABLE_ARP_RESPONDER

/* [policy-accounting] Count packets and bytes in each policy entry: an atomic write to shared
 * memory for each packet and direction. */
/* #define ENABLE_POLICY_ACCOUNTING */

/* [drop-notify] Tell listeners of each dropped packet: who, what, why, and the line that decided.
 */
#define ENABLE_DROP_NOTIFY

/* [trace] Tell listeners of each packet at the points of its way: from an endpoint, from the stack,
 * to the stack, to an endpoint. */
/* #define ENABLE_TRACE */

/* [policy-verdict] Tell listeners of each verdict of policy, also when it allows. */
/* #define ENABLE_POLICY_VERDICT */

/* [conntrack] Track connections: replies and ICMP errors of flows that policy allows pass without
 * being asked about. Off, policy is asked about every packet in each direction. */
#define ENABLE_CONNTRACK

/* [flow-accounting] Count packets and bytes of each tracked connection, both ways: atomic writes to
 * memory that is looked at anyway. */
#define ENABLE_FLOW_ACCOUNTING

/* [connection-events] Tell listeners of each tracked connection that is opened or closed. */
/* #define ENABLE_CONNECTION_EVENTS */

/* [host-routing] Packets to other pods of the node take its stack, as all others do: iptables and
 * the queues of interfaces hold for them, and what other plugins have put there. Slower. */
/* #define ENABLE_HOST_ROUTING */
