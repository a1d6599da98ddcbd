"""Kubernetes' container runtime interface, as the kubelet speaks it to containerd.

    client = cri.Client(socket)
    client.RunPodSandbox(config={"metadata": {"name": "web", "namespace": "default"}}).pod_sandbox_id

`cri.proto` is compiled when it is first asked for, which takes a tenth of a second, and its messages are built from
that: nothing generated is kept.
"""

import functools
import tempfile
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc

PROTO = Path(__file__).with_suffix(".proto")
PACKAGE = "runtime.v1"


@functools.cache
def described() -> descriptor_pb2.FileDescriptorProto:
    """Return `cri.proto`, compiled."""
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory, "cri.bin")
        if protoc.main(["protoc", f"-I{PROTO.parent}", f"--descriptor_set_out={output}", PROTO.name]):
            raise AssertionError(f"{PROTO} can't be compiled")
        (file,) = descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes()).file
    return file


@functools.cache
def _file() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(described())
    return pool.FindFileByName(PROTO.name)


@functools.cache
def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_file().message_types_by_name[name])


class Client:
    """The interface of one runtime. Each method is an attribute that takes the request's fields, messages among them as
    dicts, and returns the response; its failure is a grpc.RpcError.
    """

    def __init__(self, socket: Path) -> None:
        """Connect when it is first used; a runtime that is just starting is waited for."""
        # Each its own connection: one that is shared backs off while its runtime is away.
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=(("grpc.use_local_subchannel_pool", 1),))
        for service in _file().services_by_name.values():
            for method in service.methods:
                setattr(self, method.name, self._method(service, method))

    def _method(self, service: Any, method: Any) -> Any:
        call: Any = self._channel.unary_unary(
            f"/{PACKAGE}.{service.name}/{method.name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=_class(method.output_type.name).FromString,
        )

        def ask(timeout: float = 60.0, **fields: Any) -> Any:
            return call(_class(method.input_type.name)(**fields), timeout=timeout, wait_for_ready=True)

        return ask

    def __getattr__(self, name: str) -> Any:
        """Say which methods there are: they are the interface's, not Python's."""
        raise AttributeError(f"{PROTO.name} has no method {name}")

    def close(self) -> None:
        """Disconnect."""
        self._channel.close()
