"""The three node services.

`ipam` says who holds which address, `loader` makes the kernel look as it is told, `endpoint` leads a pod's
endpoint through its life. They share `common` and otherwise meet only in protobuf messages over Unix sockets.
"""
