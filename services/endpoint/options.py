"""The switches of the endpoint programs: what is set for the node, what for one endpoint, what is in force. Pure.

    default (the loader's)  ◄── node (`podlane config set`)  ◄── endpoint (`podlane endpoint config`)

The nearest one that is set decides. Which switches there are is the loader's to say: it writes them into ep_config.h.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from services.common.errors import InvalidArgument

Options = Mapping[str, bool]

NO_OPTIONS: Options = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """A switch as the loader describes it."""

    name: str
    default: bool
    text: str
    define: str


@dataclass(frozen=True, slots=True)
class OptionStatus:
    """A switch and what it is set to; None: not set at that level."""

    info: OptionInfo
    node: bool | None
    endpoint: bool | None

    @property
    def enabled(self) -> bool:
        """What is in force."""
        return next(one for one in (self.endpoint, self.node, self.info.default) if one is not None)


def effective(node: Options, endpoint: Options) -> dict[str, bool]:
    """Return what differs from the defaults: the node's switches and over them the endpoint's own."""
    return {**node, **endpoint}


def changed(current: Options, changes: Mapping[str, bool | None], known: Iterable[OptionInfo]) -> dict[str, bool]:
    """Return `current` with changes made; None takes a switch back. Raises InvalidArgument that names the switch."""
    check(changes, known, "changes")
    kept = {name: enabled for name, enabled in current.items() if name not in changes}
    return kept | {name: enabled for name, enabled in changes.items() if enabled is not None}


def check(names: Iterable[str], known: Iterable[OptionInfo], field: str = "options") -> None:
    """Raise InvalidArgument, with the name of the field, when one is no option."""
    there = sorted(one.name for one in known)
    for name in names:
        if name not in there:
            raise InvalidArgument(f"{field}: {name!r} is no option; there are {', '.join(there)}", field=field)


def status(known: Iterable[OptionInfo], node: Options, endpoint: Options) -> list[OptionStatus]:
    """Return every switch, in alphabetical order."""
    return [
        OptionStatus(one, node.get(one.name), endpoint.get(one.name)) for one in sorted(known, key=lambda one: one.name)
    ]


def describe(changes: Mapping[str, bool | None]) -> str:
    """Return changes as reasons and logs have them."""
    words = {True: "on", False: "off", None: "unset"}
    return ", ".join(f"{name} {words[enabled]}" for name, enabled in sorted(changes.items()))
