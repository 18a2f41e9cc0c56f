"""What the trainer's tests share: one tiny model with its rows, made once."""

from pathlib import Path

import pytest

from tests.support.runs import write_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny encoder without dropout, and of its rows."""
    return write_tiny(tmp_path_factory.mktemp("tiny"))
