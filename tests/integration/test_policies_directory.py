"""Policies in the watched directory: what is in force, and when."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import FailedPrecondition
from tests.endpoint_support import Client, Surroundings
from tests.policies_support import HOST, OPEN, OUT, entries, from_app, name, pod_document, policy, started, until


@pytest.fixture
async def around() -> AsyncIterator[Surroundings]:
    """Fakes and directories."""
    async with Surroundings() as around:
        yield around


@pytest.fixture
async def client(around: Surroundings) -> AsyncIterator[Client]:
    """The service in this process."""
    async with around.service() as client:
        yield client


@pytest.fixture
def directory(around: Surroundings) -> Path:
    path = around.dir / "policy.d"
    path.mkdir()
    return path


async def test_what_lies_there_is_in_force_before_the_node_takes_endpoints(
    around: Surroundings, directory: Path
) -> None:
    (directory / "web.yaml").write_text(_yaml(policy("web"), pod_document("web", "web")))
    async with around.service() as client:
        await started(around, client, "web")

        assert entries(around, 1) == {HOST, OUT}
        assert (await client.documents())["1 default/web"].source == "web.yaml"


async def test_files_that_change_and_go_take_their_documents_with_them(
    around: Surroundings, client: Client, directory: Path
) -> None:
    await started(around, client, "web", "web")
    (directory / "web.yaml").write_text(_yaml(policy("web"), policy("egress", policyTypes=["Egress"])))
    await until(lambda: entries(around, 1) == {HOST})

    (directory / "web.yaml").write_text(_yaml(policy("web")))
    await until(lambda: entries(around, 1) == {HOST, OUT})

    (directory / "web.yaml").unlink()
    await until(lambda: entries(around, 1) == OPEN)


async def test_a_bad_file_leaves_in_force_what_was_taken_from_it_before(
    around: Surroundings, client: Client, directory: Path
) -> None:
    await started(around, client, "web", "web")
    file = directory / "web.yaml"
    file.write_text(_yaml(policy("web")))
    await until(lambda: entries(around, 1) == {HOST, OUT})

    file.write_text("kind: Networkpolicy\n")
    async with asyncio.timeout(10):
        while "web.yaml: 2 problems" not in (await client.controller("policy-directory")).status.last_error:
            await asyncio.sleep(0.01)
    assert entries(around, 1) == {HOST, OUT}

    file.write_text(_yaml(policy("web", from_app("web"))))
    await until(lambda: len(entries(around, 1)) == 3)
    async with asyncio.timeout(10):
        while (await client.controller("policy-directory")).status.consecutive_failure_count:
            await asyncio.sleep(0.01)


async def test_what_a_file_has_nobody_else_changes(client: Client, directory: Path) -> None:
    (directory / "web.yaml").write_text(_yaml(policy("web")))
    async with asyncio.timeout(10):
        while not await client.documents():
            await asyncio.sleep(0.01)

    with pytest.raises(FailedPrecondition, match=r"NetworkPolicy default/web is in the watched file web\.yaml"):
        await client.apply(policy("web", from_app("web")))
    with pytest.raises(FailedPrecondition, match=r"web\.yaml"):
        await client.forget(name("web"))


def _yaml(*documents: dict[str, Any]) -> str:
    return "\n---\n".join(map(json.dumps, documents))
