"""Reading texts of documents for tests: what is wrong with them, and a policy around a spec."""

import pytest

from services.endpoint.policy.labels import LabelFilter
from services.endpoint.policy.parse import InvalidDocuments, parse


def wrong(text: str, labels: LabelFilter | None = None) -> list[str]:
    """Return what is wrong with a text, as people read it."""
    with pytest.raises(InvalidDocuments) as caught:
        parse(text, "policy.yaml", labels or LabelFilter())
    assert caught.value.problems
    return [str(problem) for problem in caught.value.problems]


def policy(spec: str, indent: str = "  ") -> str:
    """Return a document with a spec that begins in line 5."""
    lines = "".join(f"{indent}{line}\n" for line in spec.splitlines())
    return f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: web}}\nspec:\n{lines}"
