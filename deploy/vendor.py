"""Fetches the front-end packages that `podlane ui` serves and that its tests use, as npm has released them.

    make vendor

Each `packages.json` names packages, versions and the files that are taken, with the registry's integrity of the package
and the SHA-256 of each file. A package that is not what its integrity says is refused; without one, it is written down
(that is how a version is raised: change it, remove its integrity, run this). Nothing is built or changed: what is in
the directories is what was published. Tests hold the files against the digests.
"""

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_PLACES = (_ROOT / "cli/ui/static/vendor", _ROOT / "tests/vendor")


def _fetch(name: str, version: str, into: str) -> bytes:
    """Return the package as the registry has it."""
    argv = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", into, f"{name}@{version}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return Path(into, done.stdout.split()[-1]).read_bytes()


def _take(name: str, package: dict[str, Any], place: Path) -> None:
    """Write a package's files, and their digests into `package`."""
    with tempfile.TemporaryDirectory() as into:
        packed = _fetch(name, package["version"], into)
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode()
        if package.setdefault("integrity", integrity) != integrity:
            raise SystemExit(f"{name} {package['version']}: its integrity is {integrity}, not {package['integrity']}")
        digests = {}
        with tarfile.open(next(Path(into).glob("*.tgz"))) as archive:
            for source, target in package["files"].items():
                member = archive.extractfile(f"package/{source}")
                assert member is not None
                content = member.read()
                (place / target).write_bytes(content)
                digests[target] = hashlib.sha256(content).hexdigest()
        package["sha256"] = digests


def main() -> int:
    """Fetch all."""
    for place in _PLACES:
        listed = place / "packages.json"
        packages = json.loads(listed.read_text())
        for name, package in packages.items():
            _take(name, package, place)
            print(f"{name} {package['version']}: {', '.join(package['sha256'])}")
        listed.write_text(json.dumps(packages, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
