"""For all tests: how they are spread over workers, and that what takes long on a busy machine is no less true."""

# First of all, and whole: a command that runs in this process would leave only its modules (services/common/lean.py).
import prometheus_client  # noqa: F401
import pytest
from hypothesis import settings

settings.register_profile("podlane", deadline=None)
settings.load_profile("podlane")

# The tests of these are so many and take so long that each worker has one of its own.
_ONE_FOR_EACH_WORKER = {"sites"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests together that share something, and begin with those that take long: the last of all decides when the
    run ends.
    """
    for item in items:
        if _shares(item) and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def _shares(item: pytest.Item) -> bool:
    """Whether a test uses what one of our modules makes once for several."""
    known = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
    ours = {name for name, found in known.items() if found[-1].baseid and found[-1].scope in {"module", "session"}}
    return bool(ours) and not ours & _ONE_FOR_EACH_WORKER
