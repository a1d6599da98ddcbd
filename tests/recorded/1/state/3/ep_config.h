/* Written by podlane-loader: the switches of this endpoint. */
#pragma once
/* ENABLE_DEBUG is off */
#define ENABLE_SOURCE_IP_VERIFICATION
#define ENABLE_ARP_RESPONDER
/* ENABLE_POLICY_ACCOUNTING is off */
