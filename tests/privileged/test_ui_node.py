"""The page of a real node: a pod that comes, a packet that is denied, a service that is killed."""

import json
import socket

import pytest

from tests.browser import Browser
from tests.netns_support import in_netns
from tests.node_support import Node
from tests.ui_support import served

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("browser")]

POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "alone", "namespace": "default"},
    "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": []},
}


def labels(app: str) -> dict[str, object]:
    return {"args": {"cni": {"labels": [{"key": "app", "value": app}]}}}


def knock(netns: str, address: str, port: int) -> None:
    """Send a datagram from a namespace."""
    with in_netns(netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.sendto(b"?", (address, port))


def test_what_happens_on_a_node_is_on_its_page(shared_node: Node):
    # The page's process is on the node's files and the machine's loopback, where the browser is.
    with served(shared_node.config_file) as address, Browser() as page:
        page.open(address)
        page.until("return document.querySelectorAll('.mark-good').length >= 3 && document.querySelector('.range')")
        assert "no endpoint: a pod's ADD makes one" in page.text("#endpoints")
        page.run("window.opened = 1")

        web, db = shared_node.pod(), shared_node.pod()
        shared_node.add(web, **labels("web"))
        target = shared_node.add(db, **labels("db")).addresses[0]
        page.until("return document.querySelectorAll('#endpoints .state-good').length === 2")
        assert "app=db" in page.text("#endpoints")
        page.until("return document.querySelectorAll('.node').length >= 2")
        page.until("return document.querySelector('#events').innerText.includes('created')")

        file = shared_node.dir / "alone.json"
        file.write_text(json.dumps(POLICY))
        shared_node.podlane("policy", "apply", "-f", str(file))
        knock(web.path, target, 4711)
        page.until("return document.querySelector('.edge-dropped') && document.querySelector('.badge')")
        page.until("return document.querySelector('#talks .row-bad')?.innerText.includes('4711')")
        page.until("return document.querySelector('#events .row-bad')?.innerText.includes('default/alone')")
        page.until("return document.querySelector('#endpoints .col-policy [title=\"in: default/alone\"]')")

        page.press("1", "Home", "Enter")
        page.until("return document.querySelectorAll('.waterfall').length === 2")
        phases = page.run(
            "return [...document.querySelector('.waterfall').querySelectorAll('th[scope]')].map((one) => one.innerText)"
        )
        assert phases[0] == "start"
        assert {"addresses", "link", "datapath"} <= set(phases)
        assert "from_container" in page.text(".drawer")
        page.press("Escape")

        shared_node.kill("loader")
        page.until("return document.querySelector('.away').innerText.includes('podlane-loader is away')")
        shared_node.launch("loader")
        page.until("return !document.querySelector('.away').innerText")
        knock(web.path, target, 4712)
        page.until("return document.querySelector('#events .row-bad')?.innerText.includes('4712')")

        shared_node.delete(web)
        page.until("return document.querySelectorAll('#endpoints .state-good').length === 1")
        assert page.run("return window.opened") == 1
        assert page.complaints() == []
