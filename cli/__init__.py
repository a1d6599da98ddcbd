"""`podlane`: the operator's command. One file per noun; it decides nothing and keeps nothing.

It talks to the services over their sockets as any gRPC client does. Heavy imports (grpc) happen inside the
commands, so that `podlane --help` answers at once.
"""
