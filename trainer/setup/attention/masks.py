"""Whether batches need attention masks where no two examples share a row, which is measured on the model.

Without a mask, fused kernels skip what a mask would hide, and a GPU need not be waited for. A causal model does not see
the padding behind a text, whatever the padding is; of an encoder, only a batch without padding needs no mask, unless
its attention is given the borders of the texts.
"""

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from shardtune.recipe.schema import Recipe
from shardtune.trainer.data.batches.batch_maker import collate_alone
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.model.attention.choice import VARLEN
from shardtune.trainer.reporting.reporter import Reporter
from shardtune.trainer.setup.packing import MAX_DIFFERENCE, MAX_LEAK
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.example import IGNORED, Example
from shardtune.trainer.tasks.masks import Masks

SHORT, LONG = 9, 24
"""Tokens of the example that is watched, and of the one that pads it: most of what an encoder could see is padding."""


def choose_masks(
    recipe: Recipe, task: Task, engine: Engine, model: Any, *, like: Example, ranks: Ranks, reporter: Reporter
) -> Masks:
    """Collective: the fewest masks with which the model computes the same. `like` is an example of the task.

    Reports why, if an implementation that needs none gets some.
    """
    if model.config.is_encoder_decoder or not task.has_row_per_example:
        return Masks.KEPT
    if "attention_mask" not in task.collate([like]).inputs:
        return Masks.KEPT
    size = getattr(model.config.get_text_config(), "vocab_size", None)
    if size is None:
        return Masks.KEPT
    name = model.config._attn_implementation or ""
    wishes = [Masks.MARKED] * (name == VARLEN) + [Masks.BORDERS] * ("flash" in name) + [Masks.NONE, Masks.UNPADDED]
    probe = _Probe(engine, task, like, size, ranks)
    for masks in wishes:
        difference, leak = probe.measure(masks)
        # Every rank has the same weights, but perhaps a different kernel. nan is not at most anything.
        is_same = difference <= MAX_DIFFERENCE[recipe.engine.precision] and leak <= MAX_LEAK[recipe.engine.precision]
        if not ranks.any(not is_same):
            return masks
        if masks is Masks.MARKED:
            text = f"batches keep their masks, and {VARLEN} is not used: {type(model).__name__} computes other logits"
            reporter.report("notice", text=f"{text} with it ({difference:.1%})")
    return Masks.KEPT


class _Probe:
    """Passes of two rows through the model, the first of which is watched."""

    def __init__(self, engine: Engine, task: Task, like: Example, vocabulary_size: int, ranks: Ranks) -> None:
        self._engine, self._task, self._like, self._size, self._ranks = engine, task, like, vocabulary_size, ranks
        self._is_per_row = task.auto_model == "AutoModelForSequenceClassification"
        self._expected: dict[bool, tuple[Tensor, float]] = {}

    def measure(self, masks: Masks) -> tuple[float, float]:
        """Collective: how much the logits differ, and how much of the padding is seen.

        Both relative to the change of the logits if the example has other words in the middle; nan if that is nothing.
        """
        is_padded = masks is not Masks.UNPADDED
        if is_padded not in self._expected:
            expected = self._logits(Masks.KEPT, is_padded)
            changed = self._logits(Masks.KEPT, is_padded, words=40)
            self._expected[is_padded] = expected, float((expected - changed).norm())
        expected, scale = self._expected[is_padded]
        if not scale:
            return math.nan, math.nan
        found = self._logits(masks, is_padded)
        # A head that looks for the end of a text finds it by the padding, which therefore has to be such.
        is_told = is_padded and not self._is_per_row
        other = self._logits(masks, is_padded, other_padding=True) if is_told else found
        return float((found - expected).norm()) / scale, float((found - other).norm()) / scale

    def _logits(self, masks: Masks, is_padded: bool, *, words: int = 20, other_padding: bool = False) -> Tensor:
        """Collective: the logits of the watched example, at its first and its last token if it has labels there."""
        watched = self._example(words, SHORT)
        other = self._example(11, LONG if is_padded else SHORT)
        batch = collate_alone(self._task, [watched, other], masks)
        batch = replace(batch, inputs=batch.plain_inputs)
        if other_padding:
            padding = batch.inputs["input_ids"][0, SHORT:]
            padding.copy_((padding + 7) % self._size)
        batch = batch.to(self._ranks.device)
        with self._engine.evaluating():
            logits: Tensor = self._engine.forward(batch).logits[0].float()
        return logits if self._is_per_row else logits[[0, SHORT - 1]]

    def _example(self, words: int, length: int) -> Example:
        """An example of the task whose first and last token are always the same."""
        ids = [(words + 7 * at * at + 3 * at) % self._size for at in range(length)]
        ids[0], ids[-1] = 5 % self._size, 6 % self._size
        example = self._like | {"input_ids": ids}
        example.pop("weights", None)
        if "token_type_ids" in example:
            example["token_type_ids"] = [0] * length
        if not self._is_per_row and "labels" in example:
            example["labels"] = [IGNORED] * length
        return example
