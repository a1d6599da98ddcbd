"""What the verbs are in etcd's messages. No input or output here.

A prefix is a range up to the next prefix. A list is read in pages, all at the revision of the first, because one answer
of all would be as large as the store. `put` is one transaction that writes only if value or lease differ, so that
putting again and again what is there costs watchers nothing.
"""

from collections.abc import Iterable, Mapping, Sequence

from aetcd import rpc

from services.common.kvstore import Absent, AbsentBelow, Change, Condition, Entry, Put, Unchanged

PAGE = 5000
"""Entries in one answer: a few MB. For each, etcd 3.4 counts what is left of the range, so small ones cost more."""
_PUTS, _DELETES = 0, 1


def end_of(prefix: str) -> bytes:
    """Return the first key beyond all that begin with a prefix.

    >>> end_of("a/"), end_of("")
    (b'a0', b'\\x00')
    """
    # UTF-8 has no byte 0xff, so the last byte always has a successor; etcd's NUL stands for the end of all keys.
    raw = prefix.encode()
    return raw[:-1] + bytes([raw[-1] + 1]) if raw else b"\0"


def start_of(prefix: str) -> bytes:
    """Return the first key that can begin with a prefix."""
    return prefix.encode() or b"\0"


def entry(kv: rpc.KeyValue) -> Entry:
    """Return what a key-value message says."""
    key, value = kv.key.decode(errors="replace"), kv.value.decode(errors="replace")
    return Entry(key, value, kv.mod_revision, leased=kv.lease != 0)


def get(key: str) -> rpc.RangeRequest:
    """One key."""
    return rpc.RangeRequest(key=key.encode())


def page(prefix: str, after: bytes | None, revision: int) -> rpc.RangeRequest:
    """One page of a list: the first, or what comes after a key at a revision."""
    start = start_of(prefix) if after is None else after + b"\0"
    return rpc.RangeRequest(key=start, range_end=end_of(prefix), limit=PAGE, revision=revision)


def position(prefix: str) -> rpc.RangeRequest:
    """Nothing but the header: the store's revision, which a member has from the leader."""
    return rpc.RangeRequest(key=start_of(prefix), range_end=end_of(prefix), count_only=True)


def put(key: str, value: str, lease: int) -> rpc.TxnRequest:
    """Read the key if it has the value and the lease, write it else; `read` reads the answer."""
    raw, text = key.encode(), value.encode()
    same = [
        rpc.Compare(key=raw, target=rpc.Compare.VALUE, result=rpc.Compare.EQUAL, value=text),
        rpc.Compare(key=raw, target=rpc.Compare.LEASE, result=rpc.Compare.EQUAL, lease=lease),
    ]
    write = rpc.PutRequest(key=raw, value=text, lease=lease)
    return rpc.TxnRequest(
        compare=same,
        success=[rpc.RequestOp(request_range=rpc.RangeRequest(key=raw, keys_only=True))],
        failure=[rpc.RequestOp(request_put=write)],
    )


def put_revision(answer: rpc.TxnResponse) -> int:
    """Return the revision of the key that was put."""
    if answer.succeeded:
        revision: int = answer.responses[0].response_range.kvs[0].mod_revision
    else:
        revision = answer.header.revision
    return revision


def delete(key: str) -> rpc.DeleteRangeRequest:
    """One key."""
    return rpc.DeleteRangeRequest(key=key.encode())


def commit(conditions: Sequence[Condition], changes: Sequence[Change], lease: int) -> rpc.TxnRequest:
    """All conditions and changes; `lease` for those that are leased."""
    return rpc.TxnRequest(
        compare=[_compare(condition) for condition in conditions],
        success=[_operation(change, lease) for change in changes],
    )


def watch(prefix: str, revision: int) -> rpc.WatchRequest:
    """Follow a prefix from a revision on. Large revisions come in fragments rather than not at all."""
    return rpc.WatchRequest(
        create_request=rpc.WatchCreateRequest(
            key=start_of(prefix), range_end=end_of(prefix), start_revision=revision, fragment=True
        )
    )


def changes_of(events: Iterable[rpc.Event], known: Mapping[str, int]) -> dict[str, Entry | None]:
    """Return what events say to somebody who knows `known`: what was told before is left out."""
    changes: dict[str, Entry | None] = {}
    for event in events:
        if event.type == _PUTS:
            told = entry(event.kv)
            if known.get(told.key) != told.revision:
                changes[told.key] = told
        else:
            key = event.kv.key.decode(errors="replace")
            if key in known or key in changes:
                changes[key] = None
    return changes


def _compare(condition: Condition) -> rpc.Compare:
    match condition:
        case Absent(key):
            return rpc.Compare(key=key.encode(), target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=0)
        case AbsentBelow(prefix):
            # A range compares each of its keys, and an empty one as a key that was never created.
            return rpc.Compare(
                key=start_of(prefix),
                range_end=end_of(prefix),
                target=rpc.Compare.CREATE,
                result=rpc.Compare.EQUAL,
                create_revision=0,
            )
        case Unchanged(key, revision):
            return rpc.Compare(
                key=key.encode(), target=rpc.Compare.MOD, result=rpc.Compare.EQUAL, mod_revision=revision
            )


def _operation(change: Change, lease: int) -> rpc.RequestOp:
    match change:
        case Put(key, value, leased):
            write = rpc.PutRequest(key=key.encode(), value=value.encode(), lease=lease if leased else 0)
            return rpc.RequestOp(request_put=write)
        case _:
            return rpc.RequestOp(request_delete_range=delete(change.key))
