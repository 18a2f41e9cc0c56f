"""What the tasks of causal language models share: tokens with the next one as a target, their batches and their loss.

An example has `input_ids` and, equally long, `labels`: what is to be said after each token, IGNORED where it is not
learned. So the shift by one is done once, when a row is encoded, and pieces can be put side by side without a leak.
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
    """The tokens with each one that has a weight as the target of the place before it; equally many of both.

    Weights other than 0 and 1 are kept, as `weights`: how much each target counts in the loss.
    """
    assert len(ids) == len(weights), "a weight for each token"
    after = [*weights[1:], 0]
    labels = [token if weight else IGNORED for token, weight in zip([*ids[1:], IGNORED], after, strict=True)]
    example: Example = {"input_ids": list(ids), "labels": labels}
    return example if {*after} <= {0, 1} else example | {"weights": [float(weight) for weight in after]}


def preview(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[PreviewSpan]:
    """Its tokens, those that are learned as their own targets."""
    is_target = [False, *(label != IGNORED for label in example["labels"][:-1])]
    texts = texts_of(example["input_ids"], tokenizer)
    return [PreviewSpan(text, text if learned else None) for text, learned in zip(texts, is_target, strict=True)]


def num_targets(example: Example) -> float:
    """How many labels count, or the sum of their weights."""
    if example.get("weights") is not None:
        return float(sum(example["weights"]))
    return float(sum(label != IGNORED for label in example["labels"]))


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    """Padded on the right; the loss of its targets is wanted (Task.wants_target_loss).

    A model keeps the examples that share a row (trainer/data/batches/bins.py) apart by their position ids, if it is
    given no attention mask (see trainer/setup/packing.py). So padding is one more of them: what is on its left does not
    see it anyhow.
    """
    import torch

    from shardtune.trainer.tasks.batch import Batch, pad
    from shardtune.trainer.tasks.example import weights_of

    ids = [example["input_ids"] for example in examples]
    labels = pad([example["labels"] for example in examples], IGNORED)
    inputs = {"input_ids": pad(ids, pad_id), "targets": labels}
    if "position_ids" in examples[0]:
        longest = inputs["input_ids"].shape[1]
        inputs["position_ids"] = torch.tensor(
            [[*its["position_ids"], *range(longest - len(its["input_ids"]))] for its in examples]
        )
    else:
        inputs["attention_mask"] = pad([[1] * len(row) for row in ids], 0)
    if not any(example.get("weights") for example in examples):
        return Batch(inputs, labels)
    weights = torch.zeros(labels.shape)
    for row, example in zip(weights, examples, strict=True):
        row[: len(example["labels"])] = torch.tensor(weights_of(example))
    return Batch(inputs | {"target_weights": weights}, labels, weights)


def collate_prompts(prompts: Sequence[Sequence[int]], pad_id: int) -> dict[str, Tensor]:
    """What generate takes, padded on the left so that every answer begins at the same place; shape (rows, longest)."""
    from shardtune.trainer.tasks.batch import padded_inputs

    backwards = padded_inputs([list(reversed(prompt)) for prompt in prompts], pad_id)
    return {name: tensor.flip(1) for name, tensor in backwards.items()}


def loss_sum(output: Any) -> Tensor:
    """Cross entropy in float32, summed with the targets' weights, of a model that answers with it."""
    loss: Tensor = output.logits[0]
    return loss


def score(output: Any, batch: Batch) -> dict[str, Tensor]:
    """How many targets are the likeliest token, and how many there are."""
    return {"tokens_right": output.logits[1], "tokens": batch.targets.sum()}


def metrics(totals: Mapping[str, Tensor]) -> dict[str, float]:
    """Perplexity, the exponential of the mean loss; and the part of the targets that are the likeliest token."""
    loss = float(totals["loss_sum"]) / (float(totals["num_targets"]) or 1.0)
    return {
        "perplexity": perplexity(loss),
        "token_accuracy": float(totals["tokens_right"]) / max(1, int(totals["tokens"])),
    }


def perplexity(loss: float) -> float:
    """The exponential of a mean loss."""
    return math.exp(loss) if loss < 700 else math.inf
