"""Writes into etcd as many nodes would; a process of its own, run in etcd's network namespace by scale.py.

    fill ADDRESSES IDENTITIES       that many, and then one line on stdout
    update PER_SECOND SECONDS       addresses get other identities; for each probe a line `address identity nanoseconds`

Times are the monotonic clock's, right before the request is sent: all processes of a machine have the same one.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address

from services.common import controllers
from services.common.config import KvstoreSettings
from services.common.kvstore import Put
from services.common.kvstore.etcd import EtcdKvstore
from services.common.kvstore.keys import Keys
from services.common.model import Address
from services.endpoint.cluster import records
from services.endpoint.cluster.records import IpRecord
from services.endpoint.policy.labels import Labels

KEYS = Keys()
NODES, FIRST = 400, 1000
UPDATED, PROBES = 1000, 10
_COMMIT = 100
_TOGETHER = 8


def address(number: int) -> Address:
    """Return the address of a pod that is not there."""
    return ip_address((10 << 24) + (64 << 16) + number)


def put_ip(number: int, identity: int, *, leased: bool = False) -> Put:
    """Return what its node would publish of it."""
    host = ip_address((10 << 24) + (99 << 16) + (1 << 8) + number % NODES)
    record = IpRecord(f"node-{number % NODES}", host, identity, number % 250 + 1, f"load/pod-{number}")
    return Put(KEYS.ip(address(number)), record.write(), leased=leased)


def put_identity(number: int) -> list[Put]:
    """Return what makes an identity."""
    labels = Labels({"k8s:app": f"app-{number}", "k8s:io.kubernetes.pod.namespace": f"team-{number % 50}"})
    return [
        Put(KEYS.identity(number), records.write_labels(labels)),
        Put(KEYS.identity_value(labels.canonical), records.write_number(number)),
    ]


async def fill(store: EtcdKvstore, addresses: int, identities: int) -> None:
    """Put them all."""
    puts = [put for number in range(FIRST, FIRST + identities) for put in put_identity(number)]
    puts += [put_ip(number, FIRST + number % identities) for number in range(addresses)]
    rest: Iterator[list[Put]] = (puts[start : start + _COMMIT] for start in range(0, len(puts), _COMMIT))

    async def work() -> None:
        for part in rest:
            assert await store.commit((), part)

    await asyncio.gather(*(work() for _ in range(_TOGETHER)))


async def update(store: EtcdKvstore, per_second: int, seconds: float) -> None:
    """Put at a rate, whatever the answers take; each address in its turn, with another identity each time."""
    begin = time.monotonic()
    waiting: set[asyncio.Task[None]] = set()

    async def put(number: int) -> None:
        which, identity = number % UPDATED, FIRST + number // UPDATED % 4000
        if which % (UPDATED // PROBES) == 0:
            print(address(which), identity, time.monotonic_ns())
        await store.put(put_ip(which, identity).key, put_ip(which, identity).value)

    for number in range(UPDATED, UPDATED + int(per_second * seconds)):
        task = asyncio.create_task(put(number))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
        await asyncio.sleep(max(0.0, begin + (number - UPDATED) / per_second - time.monotonic()))
    sent = time.monotonic() - begin
    await asyncio.gather(*waiting)
    print(json.dumps({"seconds": sent}))


async def main() -> None:
    """Do what the arguments say."""
    endpoint, what, *arguments = sys.argv[1:]
    settings = KvstoreSettings(endpoints=(endpoint,), requests_per_second=0, requests_in_flight=64, timeout_seconds=30)
    registry = controllers.Registry()
    store = EtcdKvstore(settings, "default", registry)
    await store.start()
    if what == "fill":
        await fill(store, int(arguments[0]), int(arguments[1]))
    else:
        await update(store, int(arguments[0]), float(arguments[1]))
    await registry.stop()
    await store.stop()


if __name__ == "__main__":
    asyncio.run(main())
