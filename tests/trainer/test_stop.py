"""A wish to stop is seen by all ranks, however it reaches one of them."""

import os
import signal
from pathlib import Path

from tests.support.runs import events, tiny_recipe, train
from trainer.checkpoint import complete_checkpoints
from trainer.config.run_dir import LEASE
from trainer.milestones import Milestones


def test_sigterm_to_one_rank_stops_all_of_them_with_a_checkpoint(tiny: Path, tmp_path: Path) -> None:
    step_done = Milestones.step_done

    def before() -> None:
        def terminated_after_four_steps(self, state, step, stats, *, loss):  # type: ignore[no-untyped-def]
            if state.step == 4 and self.ranks.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return step_done(self, state, step, stats, loss=loss)

        Milestones.step_done = terminated_after_four_steps  # type: ignore[method-assign]

    assert train(tiny_recipe(tiny), tmp_path, world_size=2, before=before)[0] == [False, False]
    assert [event["step"] for event in events(tmp_path, "stopped")] == [5]  # the one that was begun
    assert [path.name for path in complete_checkpoints(tmp_path / "checkpoints")] == ["step-5"]
    assert not (tmp_path / LEASE).exists()
