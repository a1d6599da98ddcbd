"""Visits to namespaces, and the worker that makes them."""

import asyncio
import errno
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import Internal, Unavailable
from services.loader import netns, rtnl
from services.loader.netlink import Rtnl
from services.loader.netlink_messages import AnswerLost, NetlinkError
from services.loader.netlink_worker import NetlinkWorker
from services.loader.netns import Stranded
from tests import link_support, netns_support
from tests.netns_support import Netns

pytestmark = pytest.mark.privileged
node, pod, worker = netns_support.node, netns_support.pod, link_support.worker


def where() -> int:
    """The inode of the calling thread's namespace."""
    return Path("/proc/thread-self/ns/net").stat().st_ino


async def test_a_visit_ends_where_it_began(worker: NetlinkWorker, node: Netns, pod: Netns):
    def visit(_: Rtnl) -> tuple[int, int]:
        with netns.Netns.open(pod.path) as opened, opened.visit():
            inside = where()
        return inside, where()

    assert await worker.run(visit) == (pod.inode, node.inode)


async def test_a_visit_ends_where_it_began_also_when_it_fails(worker: NetlinkWorker, node: Netns, pod: Netns):
    def visit(_: Rtnl) -> None:
        with netns.Netns.open(pod.path) as opened, opened.visit():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await worker.run(visit)
    assert await worker.run(lambda _: where()) == node.inode


async def test_a_socket_opened_on_a_visit_stays_inside(worker: NetlinkWorker, pod: Netns):
    def visit(_: Rtnl) -> int:
        with netns.Netns.open(pod.path) as opened:
            with opened.visit():
                inside = Rtnl()
            with inside:
                return inside.cookie()

    assert await worker.run(visit) == pod.run(cookie)


def cookie() -> int:
    """The cookie of the calling thread's namespace."""
    with Rtnl() as own:
        return own.cookie()


async def test_a_thread_that_cannot_come_back_is_given_up(
    worker: NetlinkWorker, node: Netns, pod: Netns, monkeypatch: pytest.MonkeyPatch
):
    """Work that was queued behind it is refused, later work is done by a new thread in the node's namespace."""
    real, calls = netns._setns, []

    def fails_on_the_way_back(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 2:
            raise OSError(1, "Operation not permitted")
        real(fd)

    monkeypatch.setattr(netns, "_setns", fails_on_the_way_back)
    queued = threading.Event()

    def visit(_: Rtnl) -> None:
        queued.wait()
        with netns.Netns.open(pod.path) as opened, opened.visit():
            pass

    first = asyncio.ensure_future(worker.run(visit))
    second = asyncio.ensure_future(worker.run(lambda _: where()))
    await asyncio.sleep(0)
    queued.set()

    with pytest.raises(Stranded, match="can't go back"):
        await first
    with pytest.raises(Unavailable, match="repeat the request"):
        await second
    assert await worker.run(lambda _: where()) == node.inode


async def test_what_comes_last_waits_for_all_else(worker: NetlinkWorker):
    """New links, behind what creations and deletions have begun; among themselves both are first in, first out."""
    begin, done = threading.Event(), list[str]()

    def piece(name: str) -> Callable[[Rtnl], None]:
        return lambda _: done.append(name)

    pieces: list[asyncio.Future[Any]] = [asyncio.ensure_future(worker.run(lambda _: begin.wait()))]
    for name, last in (("link 1", True), ("link 2", True), ("attach", False), ("link 3", True), ("disconnect", False)):
        pieces.append(asyncio.ensure_future(worker.run(piece(name), last=last)))
    await asyncio.sleep(0)
    begin.set()
    await asyncio.gather(*pieces)
    assert done == ["attach", "disconnect", "link 1", "link 2", "link 3"]


async def test_a_worker_that_is_not_running_says_so():
    with pytest.raises(Internal, match="isn't running"):
        await NetlinkWorker("idle").run(lambda _: None)


@pytest.mark.usefixtures("node")
def test_the_first_failure_of_a_batch_is_told_with_the_kernels_sentence():
    """The kernel goes on after it, so the last request was carried out."""
    with Rtnl() as own:
        with pytest.raises(NetlinkError, match=r"there-is-none: .*\(ENODEV\)") as caught:
            own.batch(
                [
                    rtnl.set_link(ifname="lo", up=True),
                    rtnl.set_link(ifname="there-is-none", up=True),
                    rtnl.set_link(ifname="lo", mtu=1400),
                ]
            )

        assert caught.value.index == 1
        assert rtnl.read_link(own.batch([rtnl.get_link(ifname="lo")])[0].bodies[0]).mtu == 1400


@pytest.mark.usefixtures("node")
def test_a_batch_larger_than_one_send_is_carried_out_in_order():
    with Rtnl() as own:
        own.batch([rtnl.set_link(ifname="lo", mtu=1300 + number) for number in range(3000)])
        links = own.batch([rtnl.get_link(ifname="lo")] * 500)

        assert {rtnl.read_link(reply.bodies[0]).mtu for reply in links} == {4299}


@pytest.mark.usefixtures("node")
def test_each_request_has_its_own_answer_although_only_the_last_is_acknowledged():
    gone = rtnl.get_link(ifname="there-is-none")
    with Rtnl() as own:
        replies = own.batch([gone, rtnl.get_link(ifname="lo"), rtnl.set_link(ifname="lo", mtu=1400), gone])

        assert [reply.errno for reply in replies] == [errno.ENODEV, 0, 0, errno.ENODEV]
        assert [len(reply.bodies) for reply in replies] == [0, 1, 0, 0]


@pytest.mark.usefixtures("node")
def test_answers_that_found_no_room_are_not_taken_for_success():
    with Rtnl() as own:
        own._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        with pytest.raises(AnswerLost):
            own.batch([rtnl.set_link(ifname="there-is-none", up=True)] * 31 + [rtnl.set_link(ifname="lo", up=True)])

        assert own.batch([rtnl.get_link(ifname="lo")])[0].bodies


@pytest.mark.usefixtures("node")
def test_a_dump_is_complete_while_the_table_changes():
    """An interrupted dump is repeated."""
    stop = threading.Event()

    def churn() -> None:
        with Rtnl() as own:
            while not stop.is_set():
                pair = (rtnl.EndOfPair(name, b"\2\0\0\0\0\1", 1500) for name in ("churn", "churn-p"))
                own.batch([rtnl.new_veth(*pair), rtnl.delete_link(ifname="churn")])

    with Rtnl() as own:
        own.batch(
            [
                rtnl.new_veth(
                    rtnl.EndOfPair(f"a{number}", b"\2\0\0\0\0\1", 1500),
                    rtnl.EndOfPair(f"b{number}", b"\2\0\0\0\0\1", 1500),
                )
                for number in range(60)
            ]
        )
        churning = threading.Thread(target=churn)
        churning.start()
        try:
            for _ in range(30):
                found = {rtnl.read_link(body).ifname for body in own.dump(rtnl.dump_links())}
                assert {f"a{number}" for number in range(60)} <= found
        finally:
            stop.set()
            churning.join()
