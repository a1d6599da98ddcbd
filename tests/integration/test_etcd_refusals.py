"""etcd that is there and won't have us: each reason is a sentence, said once, and mended without a restart."""

import asyncio
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from services.common.errors import FailedPrecondition, Unavailable
from services.common.kvstore import Absent, Put
from tests.certificates import Certificates
from tests.etcd_support import Etcd
from tests.kvstore_support import Watching, client, until


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of all tests here."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls(certificates: Certificates) -> Iterator[Etcd]:
    """One member with TLS, for tests that leave it as it is."""
    with Etcd(tls=certificates) as etcd:
        yield etcd


@pytest.fixture(scope="module")
def password(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with the right password."""
    file = tmp_path_factory.mktemp("password") / "password"
    file.write_text("secret\n")
    return file


@pytest.fixture
def protected() -> Iterator[Etcd]:
    """One member with authentication on."""
    with Etcd() as etcd:
        etcd.protect("podlane", "secret")
        yield etcd


def _settings(certificates: Certificates, **changes: Path) -> dict[str, Any]:
    right = {"ca": certificates.ca, "certificate": certificates.client, "key": certificates.client_key}
    return right | changes


async def _refusal(etcd: Etcd, settings: Mapping[str, Any], *, cluster: str = "test") -> str:
    """Return what requests are refused with, after a look at how often it was logged."""
    async with client(etcd.endpoints, cluster=cluster, **settings) as kvstore:
        with capture_logs() as log:
            for _ in range(3):
                with pytest.raises(FailedPrecondition) as refused:
                    await kvstore.put("podlane/a", "1")
            with pytest.raises(FailedPrecondition):
                await kvstore.put("podlane/a", "1", leased=True)
        status = await kvstore.status()
        assert not status.reachable
        assert status.error == refused.value.message
        assert [line["event"] for line in log] == ["etcd can't be used"]
        assert "pods and known identities go on" in log[0]["still"]
        return refused.value.message


async def test_tls_with_a_client_certificate_works(tls: Etcd, certificates: Certificates) -> None:
    """The way it is meant to be."""
    async with client(tls.endpoints, **_settings(certificates)) as kvstore:
        await kvstore.put("podlane/a", "1", leased=True)
        assert [member.error for member in (await kvstore.status()).members] == [""]


async def test_a_certificate_of_another_authority_is_refused_by_us(tls: Etcd, certificates: Certificates) -> None:
    """Not taken for an etcd that is down."""
    message = await _refusal(tls, _settings(certificates, ca=certificates.other_ca))
    assert "shows a certificate that [kvstore] ca has not signed" in message
    assert tls.endpoint in message


async def test_a_missing_client_certificate_is_told_from_an_etcd_that_is_down(
    tls: Etcd, certificates: Certificates
) -> None:
    """etcd says no only after the handshake."""
    assert "refuses our certificate" in await _refusal(tls, {"ca": certificates.ca})


async def test_a_client_certificate_of_another_authority_is_refused_by_etcd(
    tls: Etcd, certificates: Certificates
) -> None:
    """The same, with one."""
    certificate, key = certificates.signed("stranger", "DNS:stranger", "other")
    message = await _refusal(tls, _settings(certificates, certificate=certificate, key=key))
    assert "refuses our certificate" in message


async def test_a_certificate_for_another_address_is_refused_by_us(tls: Etcd, certificates: Certificates) -> None:
    """`localhost` isn't in it."""
    settings = _settings(certificates)
    async with client([tls.endpoint.replace("127.0.0.1", "localhost")], **settings) as kvstore:
        with pytest.raises(FailedPrecondition, match="shows a certificate that is not for this address"):
            await kvstore.get("podlane/a")


async def test_files_that_are_missing_or_no_pem_are_named(
    tls: Etcd, certificates: Certificates, tmp_path: Path
) -> None:
    """With what the system says."""
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")

    missing = await _refusal(tls, _settings(certificates, ca=tmp_path / "none.pem"))
    assert f"{tmp_path}/none.pem: No such file or directory" in missing
    assert "is no PEM file" in await _refusal(tls, _settings(certificates, ca=nonsense))
    assert "is no PEM file" in await _refusal(tls, _settings(certificates, key=nonsense))


async def test_files_that_were_mended_count_without_a_restart(
    tls: Etcd, certificates: Certificates, tmp_path: Path
) -> None:
    """So does a renewed certificate when the next connection is made."""
    ca = tmp_path / "ca.pem"
    shutil.copy(certificates.other_ca, ca)
    async with client(tls.endpoints, **_settings(certificates, ca=ca)) as kvstore:
        with pytest.raises(FailedPrecondition):
            await kvstore.get("podlane/a")
        shutil.copy(certificates.ca, ca)
        assert await kvstore.get("podlane/none") is None
        assert (await kvstore.status()).reachable


async def test_http_where_https_is_spoken_and_the_other_way_round(tls: Etcd, certificates: Certificates) -> None:
    """Neither is a refused connection."""
    with Etcd() as plain:
        wrong = plain.endpoint.replace("http:", "https:")
        async with client([wrong], timeout_seconds=0.5, **_settings(certificates)) as kvstore:
            with pytest.raises((Unavailable, FailedPrecondition), match="is it http://"):
                await kvstore.get("podlane/a")
    async with client([tls.endpoint.replace("https:", "http:")], timeout_seconds=0.5) as kvstore:
        with pytest.raises((Unavailable, FailedPrecondition), match="is it https://"):
            await kvstore.get("podlane/a")


async def test_a_user_with_the_role_for_its_prefix_can_do_all_that_is_needed(protected: Etcd, password: Path) -> None:
    """And nothing beside it."""
    async with client(protected.endpoints, username="podlane", password_file=password) as kvstore:
        async with Watching(kvstore, "podlane/state/") as watching:
            await kvstore.put("podlane/state/a", "1", leased=True)
            assert await kvstore.commit([Absent("podlane/state/b")], [Put("podlane/state/b", "2")])
            await watching.has({"podlane/state/a": "1", "podlane/state/b": "2"})
            assert await kvstore.delete("podlane/state/a")
            assert len(await kvstore.list("podlane/")) == 2
        with pytest.raises(FailedPrecondition, match="denies our user these keys"):
            await kvstore.put("elsewhere/a", "1")
        assert (await kvstore.status()).error


async def test_a_wrong_password_is_said_once(protected: Etcd, tmp_path: Path) -> None:
    """As is a user whom nobody knows, or none where one is needed."""
    wrong = tmp_path / "password"
    wrong.write_text("wrong")
    for username in ("podlane", "nobody"):
        message = await _refusal(protected, {"username": username, "password_file": wrong})
        assert "refuses the user name or the password" in message
    assert "wants a user name and password" in await _refusal(protected, {})
    missing = await _refusal(protected, {"username": "podlane", "password_file": tmp_path / "none"})
    assert f"{tmp_path}/none: No such file" in missing


async def test_a_role_for_another_prefix_is_told(protected: Etcd, password: Path) -> None:
    """Permission denied says nothing about whose fault it is."""
    message = await _refusal(protected, {"username": "podlane", "password_file": password, "root": "elsewhere"})
    assert "denies our user these keys" in message


async def test_a_token_that_etcd_has_forgotten_is_renewed(protected: Etcd, password: Path) -> None:
    """Simple tokens live in a member's memory, and for some minutes; nobody sees it, watches included."""
    settings: dict[str, Any] = {"username": "podlane", "password_file": password}
    async with (
        client(protected.endpoints, **settings) as kvstore,
        Watching(kvstore, "podlane/state/") as watching,
    ):
        for number in range(3):
            protected.kill()
            protected.start()
            await kvstore.put(f"podlane/state/{number}", "1")
            await watching.knows(f"podlane/state/{number}")
        assert len(watching.told) == 3


async def test_authentication_that_is_turned_on_later_is_noticed(password: Path) -> None:
    """A user name is ready for it; before that, etcd needs none."""
    with Etcd() as etcd:
        async with client(etcd.endpoints, username="podlane", password_file=password) as kvstore:
            await kvstore.put("podlane/a", "1")
            etcd.protect("podlane", "secret")
            assert (await kvstore.put("podlane/a", "2")).value == "2"


async def test_the_first_that_comes_makes_the_store_its_cluster_s() -> None:
    """Two that come together agree, and a record that somebody removed is there again after the next connection."""
    with Etcd() as etcd:
        async with client(etcd.endpoints) as one, client(etcd.endpoints) as other:
            await one.get("podlane/a")
            await other.get("podlane/a")
            assert etcd.ctl("get", "--print-value-only", "podlane/cluster").stdout == '{"layout": 1, "name": "test"}\n'
            etcd.ctl("del", "podlane/cluster")
            etcd.kill()
            # It must have noticed: gRPC may be back by itself before anybody asks.
            with pytest.raises(Unavailable):
                await one.get("podlane/a")
            etcd.start()
            async with asyncio.timeout(40):
                while not etcd.ctl("get", "podlane/cluster").stdout:
                    await one.get("podlane/a")
                    await asyncio.sleep(0.05)


async def test_another_cluster_s_store_is_refused_with_both_names() -> None:
    """All of it: half a cluster in another one's store would be worse than none."""
    with Etcd() as etcd:
        async with client(etcd.endpoints, cluster="green") as kvstore:
            await kvstore.put("podlane/state/a", "1")
        message = await _refusal(etcd, {}, cluster="blue")
        assert "podlane/cluster says that this store belongs to cluster 'green'" in message
        assert "[cluster] name here is 'blue'" in message
        async with client(etcd.endpoints, cluster="blue", root="other") as kvstore:
            await kvstore.put("other/state/a", "1")

        async with client(etcd.endpoints, cluster="green") as kvstore:
            etcd.ctl("put", "podlane/cluster", '{"name": "green", "layout": 2}')
            with pytest.raises(FailedPrecondition, match=r"layout 2, and this podlane knows layouts up to 1"):
                await kvstore.get("podlane/state/a")
            etcd.ctl("del", "podlane/cluster")
            assert await kvstore.get("podlane/state/a") is not None


async def test_a_watch_of_a_store_that_refuses_us_waits_until_it_doesn_t() -> None:
    """It never raises: who reads it needs no second way."""
    with Etcd() as etcd:
        etcd.ctl("put", "podlane/cluster", '{"name": "green", "layout": 1}')
        etcd.ctl("put", "podlane/state/a", "1")
        async with client(etcd.endpoints, cluster="blue") as kvstore:
            entering = Watching(kvstore, "podlane/state/")

            async def mend() -> None:
                await until(lambda: "belongs to cluster 'green'" in kvstore._members.health.error)
                etcd.ctl("put", "podlane/cluster", '{"name": "blue", "layout": 1}')

            mending = asyncio.create_task(mend())
            async with entering as watching:
                await mending
                await watching.has({"podlane/state/a": "1"})
