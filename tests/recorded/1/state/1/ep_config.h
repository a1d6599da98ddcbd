/* Written by podlane-loader: the switches of this endpoint. */
#pragma once
#define ENABLE_DEBUG
#define ENABLE_SOURCE_IP_VERIFICATION
#define ENABLE_ARP_RESPONDER
/* ENABLE_POLICY_ACCOUNTING is off */
