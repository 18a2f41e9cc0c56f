"""Shared by the tasks of causal language models: next-token targets, their batches and their loss.

An example has `input_ids` and, of the same length, `labels`: the token that follows each position, IGNORED where it is
not learned. So the shift by one is done once, when a row is encoded, and pieces can be concatenated without a leak.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shardtune.trainer.tasks.example import IGNORED, Example, texts_of
from shardtune.trainer.tasks.task import PreviewSpan

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from shardtune.trainer.tasks.batch import Batch


def example_of(ids: Sequence[int], weights: Sequence[float]) -> Example:
    """An example in which each token with a nonzero weight is the target of the position before it.

    There is one weight per token. Weights other than 0 and 1 are kept as `weights`, the targets' weights in the loss.
    """
    assert len(ids) == len(weights), "a weight for each token"
    after = [*weights[1:], 0]
    labels = [token if weight else IGNORED for token, weight in zip([*ids[1:], IGNORED], after, strict=True)]
    example: Example = {"input_ids": list(ids), "labels": labels}
    return example if {*after} <= {0, 1} else example | {"weights": [float(weight) for weight in after]}


def preview(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[PreviewSpan]:
    """The example's tokens; each one that is learned is its own target."""
    is_target = [False, *(label != IGNORED for label in example["labels"][:-1])]
    texts = texts_of(example["input_ids"], tokenizer)
    return [PreviewSpan(text, text if learned else None) for text, learned in zip(texts, is_target, strict=True)]


def num_targets(example: Example) -> float:
    """The number of targets, or the sum of their weights."""
    if example.get("weights") is not None:
        return float(sum(example["weights"]))
    return float(sum(label != IGNORED for label in example["labels"]))


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    """A batch padded on the right, for a model that returns the loss of its targets (Task.wants_target_loss).

    A model separates the examples that share a row (trainer/data/batches/bins.py) by their position ids if it gets no
    attention mask (see trainer/setup/packing.py). So padding is one more example: nothing on its left attends to it.
    """
    import torch

    from shardtune.trainer.tasks.batch import Batch, pad
    from shardtune.trainer.tasks.example import weights_of

    ids = [example["input_ids"] for example in examples]
    labels = pad([example["labels"] for example in examples], IGNORED)
    inputs = {"input_ids": pad(ids, pad_id)}
    if "position_ids" in examples[0]:
        longest = inputs["input_ids"].shape[1]
        inputs["position_ids"] = torch.tensor(
            [[*example["position_ids"], *range(longest - len(example["input_ids"]))] for example in examples]
        )
    else:
        inputs["attention_mask"] = pad([[1] * len(row) for row in ids], 0)
    if not any(example.get("weights") for example in examples):
        return Batch(inputs, labels).with_target_inputs()
    weights = torch.zeros(labels.shape)
    for row, example in zip(weights, examples, strict=True):
        row[: len(example["labels"])] = torch.tensor(weights_of(example))
    return Batch(inputs, labels, weights).with_target_inputs()


def collate_prompts(prompts: Sequence[Sequence[int]], pad_id: int) -> dict[str, Tensor]:
    """Inputs of generate, padded on the left so that all answers begin at the same position; shape (rows, longest)."""
    from shardtune.trainer.tasks.batch import padded_inputs

    backwards = padded_inputs([list(reversed(prompt)) for prompt in prompts], pad_id)
    return {name: tensor.flip(1) for name, tensor in backwards.items()}


def loss_sum(output: Any) -> Tensor:
    """The weighted sum of cross entropies in float32, as a model with target loss returns it."""
    loss: Tensor = output.logits[0]
    return loss


def score(output: Any, batch: Batch) -> dict[str, Tensor]:
    """How many targets are the model's most likely token, and how many targets there are."""
    import torch

    return {"tokens_right": output.logits[1], "tokens": torch.tensor(len(batch.positions))}


def loss_of_rows(output: Any, batch: Batch) -> Tensor:
    """The loss of each row, from that of each target (trainer/model/target_loss.py)."""
    return batch.sum_by_row(output.logits[0])


def score_rows(output: Any, batch: Batch) -> dict[str, Tensor]:
    """As score, for each row."""
    right = output.logits[1]
    return {"tokens_right": batch.sum_by_row(right), "tokens": batch.sum_by_row(right.new_ones(right.shape))}


def metrics(totals: Mapping[str, Tensor]) -> dict[str, float]:
    """Perplexity, the exponential of the mean loss; and the fraction of targets that are the most likely token."""
    loss = float(totals["loss_sum"]) / (float(totals["num_targets"]) or 1.0)
    return {
        "perplexity": perplexity(loss),
        "token_accuracy": float(totals["tokens_right"]) / max(1, int(totals["tokens"])),
    }


def perplexity(loss: float) -> float:
    """The exponential of a mean loss."""
    return math.exp(loss) if loss < 700 else math.inf
