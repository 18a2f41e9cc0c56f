"""Whole trainings of the tiny model on forked ranks."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import deepspeed

from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import STOP, read_events
from shardtune.trainer.data.prepare.prepare import prepare
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.stop import signals_ask_to_stop
from shardtune.trainer.retention.preparation import prepare_retention
from shardtune.trainer.run import run
from tests.support.ranks import run_ranks
from tests.support.tiny import write_encoder, write_reviews

# Done once, before the ranks are forked, for each of them would do it otherwise: most of a tiny training's time.
for module in (
    "deepspeed.runtime.zero.muon.muon_optimizer",  # compiles nothing, but imports all of torch's inductor
    "deepspeed.runtime.zero.stage3",
    "torch._inductor.compile_fx",
    "transformers.models.bert.modeling_bert",
):
    import_module(module)
assert deepspeed.ops.__compatible_ops__, "it asks a compiler which of DeepSpeed's extensions could be built"

RECIPE = """
task: {{kind: classification}}
model: {{path: {folder}/encoder}}
data:
  train: {folder}/train.jsonl
  dev: {folder}/dev.jsonl
  test: {folder}/test.jsonl
  max_tokens: 64
  length_window: 2
  cache_dir: {folder}/cache
train: {{global_batch_size: 12, num_epochs: 3}}
optim: {{lr: 3e-3, warmup_steps: 2}}
engine: {{precision: fp32, deepspeed: zero2}}
report: {{wandb: disabled}}
"""
STEPS_PER_EPOCH = 6


def write_tiny(folder: Path, *, dropout: float = 0.0) -> Path:
    """A tiny encoder and its rows: 67 of them, so that an epoch's last step holds 7 rows and no share is even."""
    write_encoder(folder / "encoder", dropout=dropout)
    for split, num_rows in (("train", 67), ("dev", 29), ("test", 31)):
        write_reviews(folder / f"{split}.jsonl", num_rows, seed=num_rows)
    return folder


def tiny_recipe(folder: Path, *overrides: str) -> Recipe:
    return parse_recipe(RECIPE.format(folder=folder), overrides)


def train(
    recipe: Recipe, run_dir: Path, *, world_size: int, before: Callable[[], None] = lambda: None
) -> tuple[list[bool], list[dict[str, Any]]]:
    """Runs the recipe on so many ranks, `before` on each first. Whether each came to its end, and the events."""
    for folder in ("logs", "checkpoints", "export"):
        (run_dir / folder).mkdir(parents=True, exist_ok=True)
    prepared = prepare(recipe)
    retention = prepare_retention(recipe, prepared)

    def body(ranks: Ranks) -> bool:
        before()
        with signals_ask_to_stop() as stop:
            stop.watch(run_dir / STOP if ranks.is_zero else None, recipe.faults.stop_after_minutes)
            return run(recipe, run_dir, prepared, ranks, stop, retention=retention)

    ended = run_ranks(body, world_size=world_size)
    return ended, events(run_dir)


def events(run_dir: Path, *kinds: str) -> list[dict[str, Any]]:
    return [event for event in read_events(run_dir) if not kinds or event["event"] in kinds]


def curve(its_events: Sequence[dict[str, Any]]) -> list[tuple[int, float, float]]:
    """(step, loss, grad_norm) of every step."""
    return [(e["step"], e["loss"], e["grad_norm"]) for e in its_events if e["event"] == "step"]
