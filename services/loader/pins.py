"""Where the loader's kernel objects are pinned in bpffs: names only, no I/O.

    podlane/maps/<name>            maps shared by all endpoints: endpoints, call_policy, metrics, …
    podlane/maps/policy_<id>       an endpoint's own policy map
    podlane/links/<id>/<direction> an endpoint's tcx links; in tc mode the filters live on the device
    podlane/links/overlay/…        the overlay's tcx links, see overlayhooks.py

A pin holds the object when no process does: that is what lets a restart find everything in place.
"""

from pathlib import Path

from services.loader.model import LARGEST_ID

_POLICY = "policy_"


class Pins:
    """The paths below one bpffs mount."""

    def __init__(self, bpffs: Path) -> None:
        """Remember the mount."""
        self.mount = bpffs
        self.root = bpffs / "podlane"
        self.maps = self.root / "maps"
        self.tcx_links = self.root / "links"
        self.overlay_links = self.tcx_links / "overlay"

    def map(self, name: str) -> Path:
        """Return the pin of a shared map."""
        return self.maps / name

    def policy(self, id_: int) -> Path:
        """Return the pin of an endpoint's policy map."""
        return self.maps / f"{_POLICY}{id_}"

    def links(self, id_: int) -> Path:
        """Return the directory of an endpoint's tcx links."""
        return self.tcx_links / str(id_)

    def policy_owner(self, pin: str) -> int | None:
        """Return whose policy map a pin of that name is, None when it is another map."""
        number = pin.removeprefix(_POLICY)
        return self.links_owner(number) if number != pin else None

    def links_owner(self, directory: str) -> int | None:
        """Return whose tcx links are in a directory of that name, None when it is no endpoint's."""
        return int(directory) if directory.isdecimal() and 0 < int(directory) <= LARGEST_ID else None
