"""One member of etcd: its channel, made of the files that are there now, and what is known of it.

A channel reconnects by itself, so a member that is back is noticed within a second. Options bound how long a member
that takes connections and says nothing (stopped, or behind a broken network) can pass for one that lives.

Certificates are read when a channel is made; after a failed handshake it is made anew, so files that were mended or
renewed count from then on. Passwords go only where TLS has let them, or where the operator chose http.

aetcd brings etcd's messages and stubs, generated for current protobuf. Its own client isn't used: it knows neither
TLS, nor several members, nor lists in pages and at revisions, nor where a watch is to go on.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from aetcd import rpc

from services.common.config import KvstoreSettings
from services.common.controller_parameters import backoff
from services.common.kvstore.answer import Problem, Verdict, judge

RETRY_BASE, RETRY_CAP = 0.05, 1.0
"""Seconds between attempts at a member that fails."""
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # How long a connection may take until HTTP/2 is spoken: a stopped process's kernel accepts for it.
    ("grpc.min_reconnect_backoff_ms", 2000),
    # etcd takes pings every 5 s at most, and none while nothing is asked (--grpc-keepalive-min-time).
    ("grpc.keepalive_time_ms", 5500),
    ("grpc.keepalive_timeout_ms", 3000),
    # What decides how long an answer is waited for; a minute where it isn't set, whatever the line above says.
    ("grpc.http2.ping_timeout_ms", 3000),
    ("grpc.http2.max_pings_without_data", 0),
    # A page of a list, and the events of a burst.
    ("grpc.max_receive_message_length", 256 << 20),
    # What runtimes set for images must not lead to etcd.
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
_UNDECIDED = {grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING}


class Member:
    """One endpoint. `verified`: since it was connected it has shown whose store it is."""

    def __init__(self, endpoint: str, settings: KvstoreSettings) -> None:
        """Remember where; `connect` connects."""
        self.endpoint = endpoint
        self.verified = False
        self.store_id: int | None = None
        """The etcd cluster that it was of when it was last verified."""
        self.error = ""
        """Why the last attempt failed."""
        self.refusing = False
        """Whether it failed because we can't agree, not because nobody was there."""
        self.retry_at = 0.0
        """By the loop's clock: before this it isn't asked again."""
        self.connecting = asyncio.Lock()
        self._failures = 0
        self._settings = settings
        self._channel: grpc.aio.Channel | None = None

    @property
    def ready(self) -> bool:
        """Whether a request can be sent as things are."""
        if self._channel is None or not self.verified:
            return False
        return self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

    async def connect(self) -> None:
        """Connect, or fail to, whatever comes first: the next call says which."""
        channel = self._channel or self._open()
        with translated():
            while (state := channel.get_state(try_to_connect=True)) in _UNDECIDED:
                await channel.wait_for_state_change(state)

    def answered(self) -> None:
        """It lives."""
        self.error, self.refusing, self._failures, self.retry_at = "", False, 0, 0.0

    def failed(self, words: str, jitter: float, *, refusing: bool = False) -> None:
        """Leave it alone for a while."""
        self.error, self.refusing = words, refusing
        self.verified = False
        self._failures += 1
        pause = backoff(self._failures, RETRY_BASE, RETRY_CAP, jitter)
        self.retry_at = asyncio.get_running_loop().time() + pause

    async def close(self) -> None:
        """End the connection and all that hangs on it; the next `connect` reads the certificates again."""
        channel, self._channel = self._channel, None
        self.verified = False
        if channel is not None:
            await channel.close()

    def _open(self) -> grpc.aio.Channel:
        url = urlsplit(self.endpoint)
        target = f"{url.hostname}:{url.port or 2379}" if ":" not in (url.hostname or "") else url.netloc
        if url.scheme == "https":
            channel = grpc.aio.secure_channel(target, credentials(self._settings), options=_OPTIONS)
        else:
            channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        self.kv, self.lease, self.watch = rpc.KVStub(channel), rpc.LeaseStub(channel), rpc.WatchStub(channel)
        self.auth, self.maintenance = rpc.AuthStub(channel), rpc.MaintenanceStub(channel)
        self._channel = channel
        return channel


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Have as a Problem what gRPC raises in the block.

    A channel that is closed cancels its calls, which looks as if whoever waits for them was cancelled.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise judge(error.code().name, error.details() or "") from None
    except grpc.aio.UsageError:
        raise Problem(Verdict.LOST, "was left while it was asked") from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise Problem(Verdict.LOST, "was left while it was asked") from None


def credentials(settings: KvstoreSettings) -> grpc.ChannelCredentials:
    """Return what TLS needs, from the files that the settings name. Raises Problem when one can't be read."""
    key = read(settings.key) if settings.key != Path() else None
    certificate = read(settings.certificate) if settings.certificate != Path() else None
    return grpc.ssl_channel_credentials(read(settings.ca), key, certificate)


def read(path: Path) -> bytes:
    """Return a file of the settings. Raises Problem."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Problem(Verdict.TLS, f"can't be asked: {path}: {error.strerror}") from None
