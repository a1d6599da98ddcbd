"""podlane-loader: the privileged room. It makes the kernel look as it is told, and knows no pod's life.

Pure middle (`model`, `record`, `headers`, `pins`) · C and its objects (`compile`, `template`, `layout`) · the kernel's
doors (`libbpf`, `maps`, `netlink`, `netns`) · links and the node device (`links`, `linkspec`, `host`, `node`,
`masquerade`, `tc`) · what is in force and how it gets there (`statedir`, `datapath`, `regenerate`) · the edge
(`servicer`, `messages`, `main`).
"""
