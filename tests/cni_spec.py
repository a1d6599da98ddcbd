"""What the CNI specification 1.1 asks of a plugin, and the page that says which test shows it.

`python -m tests.cni_spec` writes docs/cni-conformance.md. A test claims requirements by `@pytest.mark.cni("ADD-1")`;
test_conformance.py holds that each has a test, that each claim is of one, and that the page is what would be written.

https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md; what it asks of runtimes only is not here. The
words are ours: the specification decides.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "cni-conformance.md"


@dataclass(frozen=True, slots=True)
class Requirement:
    """`level` is must or should; `text` is what the specification asks, `remark` what podlane makes of it."""

    id: str
    level: str
    text: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Requirements of one part of the specification."""

    title: str
    requirements: tuple[Requirement, ...]


_R = Requirement

SECTIONS = (
    Section(
        "Section 1: network configuration",
        (
            _R("CONF-1", "must", "A configuration in a version that the plugin doesn't support is refused: code 1."),
            _R("CONF-2", "must", "The network's name is there, and has the form that the specification gives it."),
            _R("CONF-3", "should", "Well-known keys that a plugin reads have their meaning: `dns`, `ipam`."),
            _R("CONF-4", "may", "Keys that the plugin doesn't know are no error.", "They are ignored."),
            _R("CONF-5", "must", "What a runtime puts into `runtimeConfig` for declared capabilities is used."),
        ),
    ),
    Section(
        "Section 2: execution protocol",
        (
            _R("EXEC-1", "must", "Parameters come by the environment, the configuration by stdin."),
            _R("EXEC-2", "must", "Success is exit code 0; on stdout the result of an ADD, else nothing of a result."),
            _R("EXEC-3", "must", "Failure is another exit code, with an error object on stdout."),
            _R(
                "EXEC-4", "must", "CNI_CONTAINERID begins with a letter or digit and has no others than its characters."
            ),
            _R("EXEC-5", "must", "An interface name that can't be used is an error."),
            _R("EXEC-6", "must", "CNI_ARGS are pairs of key and value with ';' between them."),
            _R("EXEC-7", "must", "A variable that the verb needs and that is missing is an error: code 4."),
        ),
    ),
    Section(
        "ADD",
        (
            _R("ADD-1", "must", "Makes the interface CNI_IFNAME in CNI_NETNS, or changes it."),
            _R("ADD-2", "must", "A result goes to stdout when it succeeds."),
            _R("ADD-3", "must", "A prevResult is passed on, changed where that is right."),
            _R("ADD-4", "must", "An interface of the name that is in the namespace already is an error."),
            _R(
                "ADD-5",
                "should",
                "Nothing is left of an ADD that failed.",
                "The specification has the runtime call DEL; podlane undoes what it did before it answers.",
            ),
        ),
    ),
    Section(
        "DEL",
        (
            _R("DEL-1", "must", "Takes the interface away, or takes back what ADD has changed."),
            _R("DEL-2", "should", "Completes without error although something of it is missing."),
            _R("DEL-3", "must", "May be called several times for one attachment, and succeeds when it is gone."),
            _R("DEL-4", "should", "Without CNI_NETNS or prevResult as much as possible is released."),
        ),
    ),
    Section(
        "CHECK",
        (
            _R("CHECK-1", "must", "prevResult says which interfaces and addresses are expected."),
            _R("CHECK-2", "must", "What a plugin later in the list has changed is no error."),
            _R(
                "CHECK-3",
                "should",
                "An interface, address or route of the result that is missing or wrong is an error.",
            ),
            _R(
                "CHECK-4",
                "should",
                "So is what isn't in the result: rules, reservations, daemons that are needed.",
                "Programs, maps, addresses in ipam's books, the services.",
            ),
            _R("CHECK-5", "should", "So is a condition in which the container can't be reached."),
            _R("CHECK-6", "must", "It may be called right after ADD."),
        ),
    ),
    Section(
        "STATUS",
        (
            _R("STATUS-1", "must", "Exit code 0 and nothing on stdout when an ADD can be served."),
            _R("STATUS-2", "should", "Code 50 when it can't: a daemon is down, addresses are used up."),
            _R("STATUS-3", "should", "Code 51 when running containers have limited connectivity, too."),
            _R("STATUS-4", "must", "No other verb relies on it being called."),
        ),
    ),
    Section(
        "VERSION",
        (_R("VERSION-1", "must", "Says which versions are supported, and needs neither configuration nor daemon."),),
    ),
    Section(
        "GC",
        (
            _R("GC-1", "should", "Removes what belongs to attachments of the network that aren't in the list."),
            _R("GC-2", "must", "Never touches what belongs to an attachment that is in the list."),
            _R("GC-3", "should", "Goes on after errors, removes what it can, and reports them."),
            _R("GC-4", "must", "An empty list means that no attachment is valid."),
            _R("GC-5", "must", "What several networks share is left alone."),
        ),
    ),
    Section(
        "Section 3: life cycle",
        (
            _R("LIFE-1", "should", "State has the key (network, CNI_CONTAINERID, CNI_IFNAME)."),
            _R("LIFE-2", "must", "Calls for different containers may run at the same time."),
            _R("LIFE-3", "must", "In a list it works with other plugins before and after it."),
        ),
    ),
    Section(
        "Section 4: delegation",
        (
            _R("IPAM-1", "must", "An IPAM plugin answers ADD without `interfaces`, its `ips` without indexes."),
            _R("IPAM-2", "must", "It gets the main plugin's environment and configuration, and reads `ipam`."),
            _R("IPAM-3", "must", "It knows DEL, CHECK, STATUS and GC, too."),
            _R("IPAM-4", "must", "A failed ADD of it leaves nothing reserved for good."),
        ),
    ),
    Section(
        "Section 5: results and errors",
        (
            _R("RESULT-1", "must", "A result has the configuration's cniVersion and that version's form."),
            _R(
                "RESULT-2", "must", "interfaces with name, mac and sandbox; ips with address and the interface's index."
            ),
            _R("RESULT-3", "must", "An error has cniVersion, code and msg; details are optional."),
            _R("RESULT-4", "must", "Codes below 100 mean what the specification says; own ones begin at 100."),
            _R("RESULT-5", "should", "What may be tried again later is code 11."),
        ),
    ),
)


def requirements() -> dict[str, Requirement]:
    """Return all of them by their ids."""
    return {one.id: one for section in SECTIONS for one in section.requirements}


@dataclass(frozen=True, slots=True)
class Claim:
    """A test that shows a requirement."""

    requirement: str
    path: Path
    test: str


def claims() -> list[Claim]:
    """Return what the tests claim, read from their sources."""
    found = []
    for path in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        text = path.read_text()
        if "mark.cni(" in text:
            found += [Claim(id_, path.relative_to(REPOSITORY), test) for test, id_ in _marks(ast.parse(text))]
    return found


def _marks(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.cni":
                    yield from ((node.name, ast.literal_eval(one)) for one in decorator.args)


def page() -> str:
    """Return docs/cni-conformance.md."""
    shown: dict[str, list[Claim]] = {}
    for claim in claims():
        shown.setdefault(claim.requirement, []).append(claim)
    lines = [
        "# What the CNI specification asks, and the tests that show it",
        "",
        "Of [version 1.1](https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md), as far as it is",
        "about plugins. Written by `python -m tests.cni_spec` from the tests' own marks; a test fails when it isn't.",
        "podlane delegates to no plugin, so what the specification asks of delegating plugins has no subject here.",
    ]
    for section in SECTIONS:
        lines += ["", f"## {section.title}", "", "| | | what is asked | shown by |", "|---|---|---|---|"]
        for one in section.requirements:
            tests = "<br>".join(f"[{claim.test}](../{claim.path})" for claim in shown.get(one.id, ()))
            text = f"{one.text} {one.remark}".strip()
            lines.append(f"| {one.id} | {one.level} | {text} | {tests} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page())
