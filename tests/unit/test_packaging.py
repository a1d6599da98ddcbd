"""One distribution owns our generic top-level names, and the lock knows every dependency."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_no_other_distribution_owns_our_top_level_names():
    """`services`, `cni` and `cli` are generic names: a second owner in the environment would shadow ours."""
    owners = metadata.packages_distributions()

    for name in ("services", "cni", "cli", "podlane"):
        assert set(owners.get(name, ["podlane"])) <= {"podlane"}


def test_the_lock_has_every_dependency_with_hashes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    locked = {
        match.group(1).lower()
        for match in re.finditer(
            r"^([A-Za-z0-9._-]+)==\S+.*\\\n\s+--hash=", (ROOT / "requirements.lock").read_text(), re.MULTILINE
        )
    }

    names = {re.split(r"[<>=!~\[ ;]", requirement)[0].lower() for requirement in wanted}

    assert names <= locked


def test_directories_that_are_no_packages_have_no_init_file():
    """The editable install makes tests, bpf and deploy importable as empty namespaces; they must stay empty."""
    assert not [path for path in ("tests", "bpf", "deploy") if (ROOT / path / "__init__.py").exists()]
