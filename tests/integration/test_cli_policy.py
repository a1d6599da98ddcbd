"""`podlane policy`: what is asked, what is said, and the exit codes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.timestamp_pb2 import Timestamp
from podlane.common.v1 import types_pb2
from podlane.endpoint.v1 import policy_pb2 as pb
from podlane.loader.v1 import loader_pb2

from cli import exits
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.cli_support import Services, serving

WEB = pb.DocumentName(kind=pb.DOCUMENT_KIND_NETWORK_POLICY, namespace="shop", name="web")
SHOP = pb.DocumentName(kind=pb.DOCUMENT_KIND_NAMESPACE, name="shop")
POD = pb.DocumentName(kind=pb.DOCUMENT_KIND_POD, namespace="shop", name="web-0")
Change = pb.AppliedDocument
EFFECT = pb.PolicyEffect(endpoints=3, entries_added=12, entries_removed=4, duration_us=8123)
DOCUMENT = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "web"}}
WARNING = pb.Problem(line=5, document="NetworkPolicy shop/web", path="spec.egress", message="means nothing")
PROBLEM = pb.Problem(line=2, document="NetworkPolicy shop/web", path="spec.ingress", message="must be a list")


@pytest.fixture
def services() -> Iterator[Services]:
    """Services that say what a test wants."""
    with serving() as found:
        yield found


def applied(*changes: tuple[pb.DocumentName, Any], **more: Any) -> Any:
    """Return a reply to ApplyPolicies."""
    documents = [pb.AppliedDocument(name=name, change=change) for name, change in changes]
    return pb.ApplyPoliciesResponse(documents=documents, effect=EFFECT, **more)


def test_apply_tells_what_became_of_each_document_and_what_the_kernel_got(services: Services, tmp_path: Path):
    file = tmp_path / "web.yaml"
    file.write_text("kind: NetworkPolicy\n")
    services.replies["ApplyPolicies"] = applied(
        (WEB, Change.CHANGE_CREATED),
        (SHOP, Change.CHANGE_CONFIGURED),
        (POD, Change.CHANGE_UNCHANGED),
        warnings=[WARNING],
    )

    outcome = services.podlane("policy", "apply", "-f", str(file))

    assert outcome.code == 0
    assert outcome.stdout.splitlines() == [
        "networkpolicy shop/web created",
        "namespace shop configured",
        "pod shop/web-0 unchanged",
        "3 endpoints: 12 entries added, 4 removed, enforced in 8.1 ms",
    ]
    assert outcome.stderr == f"{file}:5: warning: NetworkPolicy shop/web: spec.egress: means nothing\n"
    assert services.asked("ApplyPolicies") == pb.ApplyPoliciesRequest(text="kind: NetworkPolicy\n", source=str(file))


def test_what_is_not_yet_in_force_is_named_and_fails(services: Services):
    effect = pb.PolicyEffect(endpoints=1, failures=["endpoint 7: the loader is away"])
    services.replies["ApplyPolicies"] = pb.ApplyPoliciesResponse(effect=effect)

    outcome = services.podlane("policy", "apply", "-f", "-", stdin="kind: Pod")

    assert (outcome.code, outcome.stdout) == (
        1,
        "1 endpoint: 0 entries added, 0 removed, not enforced everywhere after 0.0 ms\n",
    )
    assert outcome.stderr == "podlane: endpoint 7: the loader is away; it is tried again in the background\n"
    assert services.asked("ApplyPolicies") == pb.ApplyPoliciesRequest(text="kind: Pod", source="stdin")


def test_several_files_and_a_directory_are_one_change_and_warnings_keep_their_lines(services: Services, tmp_path: Path):
    (tmp_path / "d").mkdir()
    for name, text in (("d/b.yml", "b: 1\nc: 2"), ("d/a.json", "{}\n"), ("d/.x.yaml", "no"), ("d/x.txt", "no")):
        (tmp_path / name).write_text(text)
    (tmp_path / "one").write_text("one: 1\n")
    services.replies["ValidatePolicies"] = pb.ValidatePoliciesResponse()
    services.replies["ApplyPolicies"] = lambda request: applied(
        warnings=[pb.Problem(line=request.text.split("\n").index("c: 2") + 1, message="odd")]
    )

    outcome = services.podlane("policy", "apply", "-f", str(tmp_path / "one"), "-f", str(tmp_path / "d"))

    assert outcome.code == 0
    request = services.asked("ApplyPolicies")
    assert list(yaml.safe_load_all(request.text)) == [{"one": 1}, {}, {"b": 1, "c": 2}]
    assert request.source == ", ".join(str(tmp_path / name) for name in ("one", "d/a.json", "d/b.yml"))
    assert outcome.stderr == f"{tmp_path}/d/b.yml:2: warning: odd\n"


def test_a_mistake_in_one_of_several_files_is_told_with_its_line_and_nothing_is_applied(
    services: Services, tmp_path: Path
):
    (tmp_path / "a.yaml").write_text("good")
    (tmp_path / "b.yaml").write_text("bad")
    services.replies["ValidatePolicies"] = lambda request: pb.ValidatePoliciesResponse(
        problems=[PROBLEM] if request.text.endswith("bad") else []
    )

    outcome = services.podlane("policy", "apply", "-f", str(tmp_path))

    assert (outcome.code, outcome.stdout) == (2, "")
    assert outcome.stderr == (
        f"podlane: nothing is used: {tmp_path}/b.yaml:2: NetworkPolicy shop/web: spec.ingress: must be a list\n"
    )
    assert {name for name, _ in services.requests} == {"ValidatePolicies"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["apply", "-f", "/nowhere.yaml"], "podlane: /nowhere.yaml: cannot be read: No such file or directory"),
        (["delete", "policy/web"], "'policy' is no kind; write networkpolicy/NAMESPACE/NAME, ns/NAME or pod/…"),
        (["delete", "netpol/"], "does not name a NetworkPolicy: write netpol/NAMESPACE/NAME, or NAME in the namespace"),
        (["delete", "ns/a/b"], "'ns/a/b' does not name a Namespace: write ns/NAME"),
        (["get", "pod"], "does not name a Pod"),
        (["get", "pod/a/b/c"], "does not name a Pod"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(services: Services, argv: list[str], message: str):
    outcome = services.podlane("policy", *argv)

    assert outcome.code == 2
    assert message in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
    assert services.requests == []


def test_a_file_that_is_no_text_and_a_directory_without_files_are_named(services: Services, tmp_path: Path):
    (tmp_path / "latin").write_bytes(b"# caf\xe9")

    for path, message in ((tmp_path, "there is no *.yaml"), (tmp_path / "latin", "is not UTF-8: ")):
        outcome = services.podlane("policy", "validate", "-f", str(path))
        assert outcome.code == 2
        assert outcome.stderr.startswith(f"podlane: {path}: {message}")


@pytest.mark.parametrize("verb", ["apply", "delete", "validate", "diff"])
def test_without_a_file_it_is_a_usage_error(services: Services, verb: str):
    outcome = services.podlane("policy", verb)

    assert outcome.code == 2
    assert "-f FILE" in outcome.stderr


def test_delete_takes_names_and_files(services: Services, tmp_path: Path):
    (tmp_path / "a.yaml").write_text("x")
    services.replies["DeletePolicies"] = pb.DeletePoliciesResponse(
        documents=[pb.AppliedDocument(name=WEB, change=Change.CHANGE_DELETED)], effect=EFFECT
    )

    argv = ("networkpolicy/shop/web", "netpol/web", "Namespace/shop", "ns/shop", "pod/shop/web-0", "po/x")
    outcome = services.podlane("policy", "delete", *argv, "-f", str(tmp_path / "a.yaml"))

    assert outcome.code == 0
    assert outcome.stdout.startswith("networkpolicy shop/web deleted\n3 endpoints: ")
    request = services.asked("DeletePolicies")
    assert [(one.kind, one.namespace, one.name) for one in request.names] == [
        (1, "shop", "web"),
        (1, "default", "web"),
        (2, "", "shop"),
        (2, "", "shop"),
        (3, "shop", "web-0"),
        (3, "default", "x"),
    ]
    assert (request.text, request.source) == ("x", str(tmp_path / "a.yaml"))


def document(**more: Any) -> pb.Document:
    """Return a document in force."""
    both = [loader_pb2.TRAFFIC_DIRECTION_INGRESS, loader_pb2.TRAFFIC_DIRECTION_EGRESS]
    return pb.Document(
        name=WEB, applied=Timestamp(seconds=1_700_000_000), endpoints=[7, 9], directions=both, source="web.yaml", **more
    )


def test_list_is_a_table_or_json(services: Services):
    services.replies["ListPolicies"] = pb.ListPoliciesResponse(documents=[document(), pb.Document(name=SHOP)])

    table = services.podlane("policy", "list").stdout.splitlines()
    told = json.loads(services.podlane("policy", "list", "-o", "json").stdout)

    assert table[0].split() == ["NAMESPACE", "NAME", "KIND", "SELECTS", "ISOLATES", "SOURCE", "AGE"]
    assert table[1].split()[:-1] == ["shop", "web", "NetworkPolicy", "2", "ingress,egress", "web.yaml"]
    assert table[2].split()[:-1] == ["-", "shop", "Namespace", "0", "-", "applied"]
    assert told[0]["directions"] == ["ingress", "egress"]
    services.replies["ListPolicies"] = pb.ListPoliciesResponse()
    assert services.podlane("policy", "list").stdout == "no policies\n"


def test_get_prints_the_document_as_yaml_json_or_whom_it_concerns(services: Services):
    services.replies["GetPolicy"] = pb.GetPolicyResponse(document=document(json=json.dumps(DOCUMENT)))

    as_yaml = services.podlane("policy", "get", "netpol/shop/web").stdout
    as_json = services.podlane("policy", "get", "netpol/shop/web", "-o", "json").stdout
    table = services.podlane("policy", "get", "netpol/shop/web", "-o", "table").stdout

    assert yaml.safe_load(as_yaml) == json.loads(as_json) == DOCUMENT
    assert as_yaml == "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: web\n"
    assert table.splitlines() == [
        "document    networkpolicy shop/web",
        "source      web.yaml",
        "applied     2023-11-14T22:13:20.000000Z",
        "isolates    ingress, egress",
        "endpoints   7, 9",
    ]
    assert {request.name.name for _, request in services.requests} == {"web"}


@pytest.mark.parametrize("error", [NotFound("there is no NetworkPolicy shop/web"), FailedPrecondition("a file has it")])
def test_what_the_service_refuses_is_one_line(services: Services, error: NotFound):
    services.replies["GetPolicy"] = services.replies["DeletePolicies"] = error

    for verb in ("get", "delete"):
        outcome = services.podlane("policy", verb, "netpol/shop/web")
        assert (outcome.code, outcome.stderr) == (exits.code(error), f"podlane: {error.message}\n")


def test_validate_tells_of_each_problem_with_file_and_line(services: Services, tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("1\n2\n3\n4\n5\n6")
    unplaced = pb.Problem(message="nothing in it")
    services.replies["ValidatePolicies"] = pb.ValidatePoliciesResponse(problems=[PROBLEM, unplaced], warnings=[WARNING])

    outcome = services.podlane("policy", "validate", "-f", str(file))

    assert outcome.code == 1
    assert outcome.stdout.splitlines() == [
        f"{file}:2: NetworkPolicy shop/web: spec.ingress: must be a list",
        f"{file}: nothing in it",
        f"{file}:5: warning: NetworkPolicy shop/web: spec.egress: means nothing",
    ]


def test_warnings_alone_are_no_failure(services: Services):
    services.replies["ValidatePolicies"] = pb.ValidatePoliciesResponse(warnings=[WARNING])
    assert services.podlane("policy", "validate", "-f", "-", stdin="1\n" * 6).code == 0

    services.replies["ValidatePolicies"] = pb.ValidatePoliciesResponse()
    outcome = services.podlane("policy", "validate", "-f", "-", stdin="x")
    assert (outcome.code, outcome.stdout) == (0, "stdin: nothing is wrong\n")


def test_validate_finds_what_is_there_twice_in_two_files(services: Services, tmp_path: Path):
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text("kind: x\nname: y\n")

    def check(request: Any) -> Any:
        lines = [number for number, line in enumerate(request.text.split("\n"), 1) if line == "name: y"]
        return pb.ValidatePoliciesResponse(problems=[pb.Problem(line=one, message="twice") for one in lines[1:]])

    services.replies["ValidatePolicies"] = check

    outcome = services.podlane("policy", "validate", "-f", str(tmp_path))

    assert (outcome.code, outcome.stdout) == (1, f"{tmp_path}/b.yaml:2: twice\n")


@pytest.mark.parametrize("bad", [False, True])
def test_warnings_of_several_files_are_told_once_each(services: Services, tmp_path: Path, bad: bool):
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text("1\nodd\n" + ("bad\n" if bad and name == "a" else ""))

    def check(request: Any) -> Any:
        lines = list(enumerate(request.text.split("\n"), 1))
        return pb.ValidatePoliciesResponse(
            problems=[pb.Problem(line=number, message="bad") for number, line in lines if line == "bad"],
            warnings=[pb.Problem(line=number, message="odd") for number, line in lines if line == "odd"],
        )

    services.replies["ValidatePolicies"] = check

    outcome = services.podlane("policy", "validate", "-f", str(tmp_path))

    problems = [f"{tmp_path}/a.yaml:3: bad"] if bad else []
    warnings = [f"{tmp_path}/{name}.yaml:2: warning: odd" for name in "ab"]
    assert (outcome.code, outcome.stdout.splitlines()) == (int(bad), problems + warnings)
    assert len(services.requests) == (3 if bad else 1)


def test_diff_shows_entries_isolation_and_flows(services: Services):
    services.replies["DiffPolicies"] = pb.DiffPoliciesResponse(
        documents=[pb.AppliedDocument(name=WEB, change=Change.CHANGE_CREATED)],
        endpoints=[
            pb.EndpointDiff(
                id=7,
                pod=types_pb2.Pod(namespace="shop", name="web-0"),
                added=["ingress from identity 300, 8080/TCP: policy shop/web, ingress[0].from[0]"],
                removed=["ingress from any, any protocol: no policy"],
                cut=[pb.FlowCut(summary="TCP shop/db-0:40000 -> shop/web-0:22")],
                ingress_before="open",
                ingress_after="isolated by policies shop/web",
                egress_before="open",
                egress_after="open",
            )
        ],
    )

    outcome = services.podlane("policy", "diff", "-f", "-", "--delete", "netpol/shop/old", stdin="x")

    assert outcome.code == 1
    assert outcome.stdout.splitlines() == [
        "networkpolicy shop/web created",
        "",
        "endpoint 7 shop/web-0",
        "  ingress: open → isolated by policies shop/web",
        "- ingress from any, any protocol: no policy",
        "+ ingress from identity 300, 8080/TCP: policy shop/web, ingress[0].from[0]",
        "  cuts TCP shop/db-0:40000 -> shop/web-0:22",
    ]
    request = services.asked("DiffPolicies")
    assert (request.text, [one.name for one in request.deleted]) == ("x", ["old"])


def test_a_diff_of_nothing_is_0_a_changed_document_is_1_and_an_error_is_2(services: Services):
    for change, code in ((Change.CHANGE_UNCHANGED, 0), (Change.CHANGE_CONFIGURED, 1)):
        one = pb.AppliedDocument(name=WEB, change=change)
        services.replies["DiffPolicies"] = pb.DiffPoliciesResponse(documents=[one])
        assert services.podlane("policy", "diff", "-f", "-", "-o", "json", stdin="x").code == code
    services.replies["DiffPolicies"] = pb.DiffPoliciesResponse(endpoints=[pb.EndpointDiff(id=7)])
    assert services.podlane("policy", "diff", "-f", "-", stdin="x").code == 1
    services.replies["DiffPolicies"] = InvalidArgument("stdin: 1 problem")
    outcome = services.podlane("policy", "diff", "-f", "-", stdin="x")
    assert (outcome.code, outcome.stderr) == (2, "podlane: stdin: 1 problem\n")
    assert services.podlane("policy", "diff", "--delete", "nonsense").code == 2


def explained(**more: Any) -> Any:
    """Return a reply to ExplainPolicy."""
    return pb.ExplainPolicyResponse(lines=["from shop/a to shop/b", "ingress: denied"], **more)


DISAGREE = (
    "the programs in force disagree: those of endpoint 7 drop it (policy at bpf/lib/policy.h:85), with identities "
    "300 → 301; see `podlane endpoint get 7`"
)
EXPLAIN = ("policy", "explain", "--from", "shop/a", "--to", "10.0.0.5", "--port")


def test_explain_says_why_and_whether_the_programs_agree(services: Services):
    probe = loader_pb2.ProbeEndpointResponse(
        endpoint_id=7, reason="policy", source="bpf/lib/policy.h:85", source_identity=300, destination_identity=301
    )
    for reply, code, last in (
        (explained(allowed=True, probe=probe, agrees=True), 0, "the programs in force agree"),
        (explained(unchecked="the loader is away"), 1, "the programs in force were not asked: the loader is away"),
        (
            explained(allowed=True, probe=probe),
            0,
            DISAGREE,
        ),
    ):
        services.replies["ExplainPolicy"] = reply
        outcome = services.podlane(*EXPLAIN, "443/TCP")
        assert outcome.code == code
        assert outcome.stdout.splitlines() == ["from shop/a to shop/b", "ingress: denied", last]


@pytest.mark.parametrize(
    ("argv", "protocol", "port"),
    [
        (("443/TCP",), 6, 443),
        (("53/udp",), 17, 53),
        (("9/sctp",), 132, 9),
        (("80",), 6, 80),
        (("icmp",), 1, 0),
        (("ICMP", "--family", "6"), 58, 0),
    ],
)
def test_explain_asks_for_a_protocol_and_a_port(services: Services, argv: tuple[str, ...], protocol: int, port: int):
    services.replies["ExplainPolicy"] = explained(allowed=True)

    assert services.podlane(*EXPLAIN, *argv).code == 0

    request = services.asked("ExplainPolicy")
    assert (request.protocol, request.port) == (protocol, port)
    assert request.family == (types_pb2.IP_FAMILY_IPV6 if "--family" in argv else 0)


def test_explain_asks_about_pods_ids_addresses_and_the_node(services: Services):
    services.replies["ExplainPolicy"] = explained(allowed=True)
    argv = ("policy", "explain", "--port", "icmp")

    services.podlane(*argv, "--from", "shop/a", "--to", "node")
    services.podlane(*argv, "--from", "fd00::5", "--to", "7")

    (_, one), (_, other) = services.requests
    assert (getattr(one, "from").endpoint.pod.name, one.to.node) == ("a", True)
    assert (getattr(other, "from").address.packed[-1], other.to.endpoint.id, other.protocol) == (5, 7, 58)


@pytest.mark.parametrize("port", ["0", "65536", "443/GRE", "443/", "x", "-1", "٣", "icmp/1"])
def test_explain_refuses_what_is_no_port_with_2(services: Services, port: str):
    outcome = services.podlane(*EXPLAIN, port)

    assert outcome.code == 2
    assert outcome.stderr.startswith("podlane: --port: ")
    assert services.requests == []


def test_explain_of_an_endpoint_that_is_not_there_is_2_and_no_denial(services: Services):
    services.replies["ExplainPolicy"] = NotFound("there is no endpoint shop/a")

    assert services.podlane(*EXPLAIN, "80").code == 2
    assert services.podlane("policy", "explain", "--from", "what?", "--to", "node", "--port", "80").code == 2
    assert services.podlane("policy", "explain", "--from", "shop/a").code == 2


def test_a_service_that_is_older_than_the_command_is_named(services: Services):
    outcome = services.podlane("policy", "list")

    assert outcome.code == 5
    assert outcome.stderr == (
        "podlane: podlane-endpoint does not know this call, so it is older than who asks: restart it\n"
    )


def test_the_command_itself_says_the_same(services: Services):
    """In a process of its own, as people run it."""
    services.replies["ApplyPolicies"] = applied((WEB, Change.CHANGE_CREATED))
    services.replies["ExplainPolicy"] = explained()
    command = (sys.executable, "-m", "cli", "--config", str(services.config_file))

    one = subprocess.run(
        [*command, "policy", "apply", "-f", "-"], input="x", capture_output=True, text=True, check=False
    )
    other = subprocess.run([*command, *EXPLAIN, "80"], capture_output=True, text=True, check=False)
    wrong = subprocess.run([*command, "policy", "get", "x"], capture_output=True, text=True, check=False)

    assert (one.returncode, one.stderr) == (0, "")
    assert one.stdout.startswith("networkpolicy shop/web created\n3 endpoints")
    assert other.returncode == 1
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize("verb", ["apply", "delete", "list", "get", "validate", "diff", "explain"])
def test_every_verb_has_an_example(services: Services, verb: str):
    outcome = services.podlane("policy", verb, "--help")

    assert outcome.code == 0
    assert f"podlane policy {verb}" in outcome.stdout
