"""A setting that does less than it says is told before training, with the numbers."""

from pathlib import Path

import pytest
import torch

from shardtune.recipe.load import parse_recipe
from shardtune.trainer.reporting.ineffective_settings import NO_DECAY, settings_without_effect
from tests.support.runs import tiny_recipe, train

TEXT = "task: {kind: classification}\nmodel: {path: m}\ndata: {train: t.jsonl, dev: d.jsonl}\n"
FACTS = {"label_names": ["a", "b", "c"]}


def told(*overrides: str, num_steps: int = 100, num_labels: int = 3) -> list[str]:
    facts = {"label_names": FACTS["label_names"][:num_labels]}
    return settings_without_effect(parse_recipe(TEXT, overrides), facts, num_steps=num_steps)


def test_of_the_defaults_nothing_is_told() -> None:
    assert told() == told("data.dev=null") == []
    assert told("optim.warmup_fraction=0.1", "train.eval_every_steps=100", "checkpoint.every_steps=10") == []


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["optim.warmup_steps=199"],
            "optim.warmup_steps: the warm-up takes 199 steps, but training has 100: the learning rate ends at 2.5e-05 "
            "and never reaches optim.lr=5e-05; lower optim.warmup_steps, or train longer",
        ),
        (
            ["optim.warmup_fraction=0.999"],
            "optim.warmup_fraction: the warm-up takes 100 steps, but training has 100: the learning rate ends at "
            "4.95e-05 and never reaches optim.lr=5e-05; lower optim.warmup_fraction, or train longer",
        ),
        (
            ["optim.schedule=wsd", "optim.warmup_steps=50", "optim.decay_fraction=0.6"],
            "optim.decay_fraction=0.6: warm-up (50 steps) and decay (60) are longer than the 100 steps of training: "
            "no step is stable, and the decay takes 50 steps",
        ),
        (
            ["optim.lr=1e-6"],
            "optim.weight_decay=0.01 changes no weight: at a learning rate of at most 1e-06 a step takes 1.0e-08 of a "
            "weight, which fp32 rounds off",
        ),
        (
            ["optim.weight_decay=0.1"],
            "optim.weight_decay=0.1 has hardly an effect: at these learning rates it shrinks the weights by 0.025 % "
            "over all 100 steps",
        ),
        (
            ["train.eval_every_steps=101"],
            "train.eval_every_steps=101 is more than the 100 steps of this training: dev is evaluated only at the end",
        ),
        (
            ["checkpoint.every_steps=500"],
            "checkpoint.every_steps=500 is more than the 100 steps of this training: only the last step and each new "
            "best on dev are saved",
        ),
        (
            ["report.every_steps=101"],
            "report.every_steps=101 is more than the 100 steps of this training: the loss is reported only once, at "
            "the end",
        ),
        (
            ["data.dev=null", "train.eval_every_steps=5"],
            "train.eval_every_steps=5 only sets when checkpoints are saved: there is no data.dev to evaluate on",
        ),
        (
            ["data.dev=null", "checkpoint.best_metric=f1_macro"],
            "checkpoint.best_metric has no effect: there is no data.dev to choose the best model by",
        ),
        (
            ["train.max_steps=100", "train.num_epochs=5"],
            "train.num_epochs=5 has no effect: train.max_steps sets the length of the training",
        ),
        (
            ["optim.schedule=constant", "optim.min_lr_ratio=0.1"],
            "optim.min_lr_ratio=0.1 has no effect: schedule constant never lowers the learning rate",
        ),
    ],
)
def test_each_is_one_line_with_its_numbers(overrides: list[str], line: str) -> None:
    assert told(*overrides) == [line]


def test_smoothing_two_labels_only_limits_their_probabilities() -> None:
    assert told("task.label_smoothing=0.1") == []
    assert told("task.label_smoothing=0.1", num_labels=2) == [
        "task.label_smoothing=0.1 with 2 labels does not change which of them is the likelier: it only keeps the "
        "probabilities between 0.05 and 0.95"
    ]


def test_weights_that_balance_what_is_balanced_are_told() -> None:
    recipe = parse_recipe(TEXT, ["task.class_weights=balanced"])
    equal, unequal = ({"label_counts": {"train": {"a": 7, "b": count}}} for count in (7, 8))
    assert settings_without_effect(recipe, unequal, num_steps=100) == []
    assert settings_without_effect(recipe, equal, num_steps=100) == [
        "task.class_weights: balanced has no effect: every label has 7 training rows"
    ]


@pytest.mark.parametrize("true", [0.2, 0.49, 0.51, 0.97])
def test_what_is_told_of_smoothing_holds(true: float) -> None:
    smoothed = (1 - 0.1) * true + 0.1 / 2  # the probability with the least smoothed cross entropy
    grid = torch.linspace(0.001, 0.999, 999, dtype=torch.double)
    logits = torch.stack([grid.log(), (1 - grid).log()], dim=1)
    losses = [
        torch.nn.functional.cross_entropy(logits, torch.full((999,), label), reduction="none", label_smoothing=0.1)
        for label in (0, 1)
    ]
    least = float(grid[(true * losses[0] + (1 - true) * losses[1]).argmin()])
    assert least == pytest.approx(smoothed, abs=1e-3)
    assert (least > 0.5) == (true > 0.5) and 0.05 <= least <= 0.95


@pytest.mark.parametrize(("share", "is_changed"), [(0.99 * NO_DECAY, False), (4 * NO_DECAY, True)])
def test_a_weight_decay_that_fp32_rounds_off_changes_no_weight(share: float, is_changed: bool) -> None:
    weights = torch.nn.Parameter(torch.linspace(1, 2, 1000))
    weights.grad = torch.zeros_like(weights)
    before = weights.detach().clone()
    torch.optim.AdamW([weights], lr=1e-6, weight_decay=share / 1e-6, fused=True).step()
    assert torch.equal(weights.detach(), before) is not is_changed


def test_a_run_says_it_before_its_first_step(tiny: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny, "train.max_steps=2", "optim.warmup_steps=9", "data.dev=null", "data.test=null")
    events = train(recipe, tmp_path, world_size=1)[1]
    kinds = [event["event"] for event in events]
    told_at = [at for at, event in enumerate(events) if "the warm-up takes 9 steps" in event.get("text", "")]
    assert len(told_at) == 1 and told_at[0] < kinds.index("step")
