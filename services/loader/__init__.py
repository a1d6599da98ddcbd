"""podlane-loader: the privileged room. It makes the kernel look as it is told, and knows no pod's life.

the pure middle     model · record · headers · pins · linkspec · layout · btf
C and its objects   compile · template · objects · image
the kernel's doors  libbpf* · maps · pathmaps · policymaps · eventmaps · netlink · rtnl* · netns · netlink_worker
links, the node     links · link* · inhabitants · host · tc · tcx · overlay* · node · masquerade
what is in force    statedir · datapath · inventory · steps · levels · regenerate · adopt · nodeconfig
the edge            servicer · messages · linkmessages · main
"""
