"""`podlane bpf prog` and `podlane bpf fs`: which programs are where, and the pins that hold maps and links."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cli.bpf_names import Names
from cli.bpf_policy import datapaths
from cli.listing import How, Listing, listing_options, show
from cli.present import plain
from services.common.config import Settings
from services.common.errors import NotFound, Unavailable

programs = click.Group("prog", help="The programs of the endpoints, and where they are attached.")
pins = click.Group("fs", help="What podlane has pinned in bpffs.")


@dataclass(frozen=True, slots=True)
class Program:
    """A program of an endpoint."""

    endpoint: Any
    program: Any


@programs.command("list")
@listing_options
@click.pass_obj
def list_programs(settings: Settings, how: How) -> None:
    """List the programs that are attached, by endpoint. What the kernel has lost is named on stderr.

    \b
    Examples:
      podlane bpf prog list -o wide
      bpftool prog dump xlated id "$(podlane bpf prog list -o json | jq '.[0].id')"
    """
    names = Names(settings)

    def fetch() -> list[Program]:
        found = datapaths(settings)
        names.refresh()
        for one in found:
            for problem in one.problems:
                click.echo(f"podlane: endpoint {one.id}: {problem}", err=True)
        return [Program(one, program) for one in found for program in one.programs]

    def cells(one: Program) -> tuple[str, ...]:
        endpoint, program = one.endpoint, one.program
        where = (endpoint.host_ifname, str(program.verified_instructions), endpoint.template_hash[:12])
        whose = (str(endpoint.id), names.pod(endpoint.id))
        return (
            *whose,
            program.name,
            str(program.id),
            program.tag.hex(),
            program.hook,
            str(program.instructions),
            *where,
        )

    listing = Listing(
        titles=("ENDPOINT", "POD", "PROGRAM", "ID", "TAG", "HOOK", "INSTRUCTIONS"),
        wide=("INTERFACE", "VERIFIED", "TEMPLATE"),
        rows=lambda one: [cells(one)],
        empty="no programs",
        name=lambda one: f"prog/{one.program.id}",
        flexible="POD",
        plain=lambda one: plain(one.program) | {"endpoint_id": one.endpoint.id, "pod": names.pod(one.endpoint.id)},
    )
    show(listing, fetch, how)


@dataclass(frozen=True, slots=True)
class Pin:
    """A pin: its path below podlane's directory, what it holds, and whose it is (0: shared by all)."""

    path: str
    kind: str
    endpoint: int


@pins.command("show")
@listing_options
@click.pass_obj
def show_pins(settings: Settings, how: How) -> None:
    """List the pins below podlane's directory in bpffs: a map or a link lives for as long as its pin is there.

    \b
    Examples:
      podlane bpf fs show
      bpftool map dump pinned "/sys/fs/bpf/podlane/$(podlane bpf fs show -o name | grep -m1 metrics)"
    """
    names, root = Names(settings), settings.node.bpffs / "podlane"

    def fetch() -> list[Pin]:
        found = _pins(root)
        names.refresh()
        return found

    listing = Listing(
        titles=("PIN", "KIND", "ENDPOINT", "POD"),
        rows=lambda pin: [(pin.path, pin.kind, str(pin.endpoint or "-"), names.pod(pin.endpoint))],
        empty=f"nothing is pinned in {root}",
        name=lambda pin: pin.path,
        plain=lambda pin: {
            "path": str(root / pin.path),
            "kind": pin.kind,
            "endpoint_id": pin.endpoint,
            "pod": names.pod(pin.endpoint),
        },
    )
    show(listing, fetch, how)


def _pins(root: Path) -> list[Pin]:
    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError) and error.filename == str(root):
            raise NotFound(f"{root} is not there: the loader has pinned nothing, or [node] bpffs is another one")
        if not isinstance(error, FileNotFoundError):
            raise Unavailable(f"{error.filename}: can't be read: {error.strerror}; is root needed?")

    found = []
    for directory, _, files in os.walk(root, onerror=refuse):
        found += [_pin(Path(directory).relative_to(root) / file) for file in files]
    return sorted(found, key=lambda pin: pin.path)


def _pin(path: Path) -> Pin:
    """Tell what a pin is by its place, as the loader names them."""
    first, *rest = path.parts
    owner = path.name.removeprefix("policy_") if first == "maps" else rest[0] if rest else ""
    return Pin(str(path), first.removesuffix("s"), int(owner) if owner.isdecimal() else 0)
