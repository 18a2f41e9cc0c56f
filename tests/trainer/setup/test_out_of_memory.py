"""Where memory is short, one message says by how much, and what would fit."""

import re
import resource
from pathlib import Path

import pytest
import torch

from shardtune.errors import ShortOfMemoryError
from shardtune.trainer.data.prepare.prepare import prepare
from shardtune.trainer.distributed.rank_env import ranks_here
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.setup.out_of_memory import memory_said, share_of_memory
from shardtune.trainer.tasks import TASKS
from tests.support.runs import tiny_recipe, train

MUCH = 40 * 10**9


def hungry() -> None:
    """The second backward pass of the training wants more memory than the process may have, and the kernel really
    refuses it."""
    backward, calls = DeepSpeedEngine.backward, iter(range(1, 1000))

    def refused(self, loss_sum, *, num_targets):  # type: ignore[no-untyped-def]
        if next(calls) == 2:
            resource.setrlimit(resource.RLIMIT_AS, (MUCH // 2, resource.RLIM_INFINITY))
            try:
                torch.empty(MUCH, dtype=torch.uint8)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return backward(self, loss_sum, num_targets=num_targets)

    DeepSpeedEngine.backward = refused  # type: ignore[method-assign]


def test_a_rank_whose_memory_is_short_says_in_which_micro_batch_and_by_how_much(tiny: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny, "train.max_steps=3", "data.dev=null", "train.micro_batch_tokens=512")
    said = (
        r"ShortOfMemoryError: rank 0 ran out of memory in a micro-batch of \d+ rows x \d+ tokens: it requested "
        r"40\.00 GB more after a peak of \d\.\d\d GB; this machine has \d+\.\d\d GB\."
    )
    with pytest.raises(AssertionError, match=said):
        train(recipe, tmp_path, world_size=1, before=hungry)


def test_the_settings_that_would_fit_are_named_with_what_they_would_take(tiny: Path) -> None:
    recipe = tiny_recipe(tiny, "train.micro_batch_tokens=512")
    task = TASKS["classification"](
        recipe.task, prepare(recipe).facts, load_tokenizer(recipe), load_model_config(recipe)
    )
    ranks = Ranks(1, 2, 1, torch.device("cpu"))
    with (
        pytest.raises(ShortOfMemoryError) as raised,
        memory_said(recipe, task, ranks, lambda: (16, 32), micro_batch_tokens=512),
    ):
        raise torch.OutOfMemoryError("Tried to allocate 1.50 GiB.")
    first, second, *settings = str(raised.value).splitlines()
    assert first.startswith("rank 1 ran out of memory in a micro-batch of 16 rows x 32 tokens: it requested 1.61 GB")
    assert second == "By estimate, each of these alone would fit, and none changes what is learned:"
    named = {setting.split()[0]: float(re.findall(r"([\d.]+) GB", setting)[0]) for setting in settings}
    assert list(named)[:2] == ["train.micro_batch_tokens=256", "train.micro_batch_tokens=128"]
    assert "model.activation_checkpointing=true" in named
    with (
        pytest.raises(RuntimeError, match="shapes"),
        memory_said(recipe, task, ranks, lambda: None, micro_batch_tokens=512),
    ):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_a_machines_memory_is_shared_by_the_ranks_that_are_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert ranks_here() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert share_of_memory(torch.device("cpu"), ranks_here()) == share_of_memory(torch.device("cpu"), 1) / 2
