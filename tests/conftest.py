"""What holds for all tests: property tests have no deadline (machines differ), and draw the same examples on CI."""

import os
from hashlib import sha256

import pytest
from hypothesis import settings

settings.register_profile("shardtune", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("shardtune")


@pytest.fixture(autouse=True)
def _no_run_of_another_test_is_known(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is any of whoever runs the tests."""
    number = os.environ.get("PYTEST_CURRENT_TEST", "")
    folder = tmp_path_factory.getbasetemp() / "state" / sha256(number.encode()).hexdigest()[:16]
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
