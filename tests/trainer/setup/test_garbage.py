"""What is imported under lasting_objects is not searched for garbage, and garbage is collected as before."""

import gc
import weakref

import pytest

from shardtune.trainer.setup.garbage import lasting_objects


class Node:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


def test_what_exists_is_frozen_and_the_collector_works_on_even_after_an_error() -> None:
    before = gc.get_freeze_count()
    with pytest.raises(ValueError, match="in an import"), lasting_objects():
        assert not gc.isenabled()
        raise ValueError("in an import")
    try:
        assert gc.isenabled() and gc.get_freeze_count() > before
        reference = weakref.ref(Node())
        assert reference() is not None
        gc.collect()
        assert reference() is None
    finally:
        gc.unfreeze()
