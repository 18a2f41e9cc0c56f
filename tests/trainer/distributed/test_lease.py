"""Every rank knows whether its start owns the run directory, and a start that has lost it ends."""

from pathlib import Path

import pytest

from shardtune.errors import CheckpointError, TakenOverError
from shardtune.run_dir.files import LEASE
from shardtune.run_dir.lease import take_lease
from shardtune.run_dir.lease_holder import read_holder, render_holder, this_process
from shardtune.trainer.between_steps.milestones import Milestones
from shardtune.trainer.checkpoint.manifest import complete_checkpoints
from shardtune.trainer.distributed.lease import leased
from shardtune.trainer.distributed.ranks import Ranks
from tests.support.ranks import run_ranks
from tests.support.runs import events, tiny_recipe, train


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / LEASE


def seize(path: Path) -> None:
    """Makes job 8 the owner, as if it believed the present one dead."""
    path.write_text(render_holder(this_process(job="8", token="another")))


def test_any_rank_can_see_that_the_lease_has_been_lost(path: Path) -> None:
    def body(ranks: Ranks) -> bool:
        with leased(path.parent, ranks) as lease:
            lease.check_here()
            ranks.barrier()
            if ranks.is_zero:
                seize(path)
            ranks.barrier()
            with pytest.raises(TakenOverError, match=r"another start, job 8.* took over this run directory"):
                lease.check_here()
        return True

    assert run_ranks(body) == [True, True]


def test_the_refusal_is_said_on_every_rank(path: Path) -> None:
    held = take_lease(path, "7")

    def body(ranks: Ranks) -> str:
        with pytest.raises(CheckpointError) as error, leased(path.parent, ranks):
            pass
        return str(error.value)

    said = run_ranks(body)
    held.close()
    assert said[0] == said[1]


def test_a_start_that_was_taken_over_ends_without_another_checkpoint(tiny: Path, tmp_path: Path) -> None:
    step_done = Milestones.step_done

    def before() -> None:
        def taken_over_after_four_steps(self, state, step, stats, *, loss):  # type: ignore[no-untyped-def]
            if state.step == 4:
                seize(tmp_path / LEASE)
            return step_done(self, state, step, stats, loss=loss)

        Milestones.step_done = taken_over_after_four_steps  # type: ignore[method-assign]

    with pytest.raises(AssertionError, match=r"another start, job 8.* took over this run directory"):
        train(tiny_recipe(tiny), tmp_path, world_size=1, before=before)
    assert len(events(tmp_path, "step")) == 4
    assert complete_checkpoints(tmp_path / "checkpoints") == []
    holder = read_holder(tmp_path / LEASE)
    assert holder is not None and holder.job == "8"
