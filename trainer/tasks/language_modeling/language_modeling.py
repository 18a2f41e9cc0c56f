"""Language modeling of unlabeled text: predict the next token (causal) or hidden tokens (masked)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from shardtune.errors import DataError
from shardtune.recipe.tasks.language_modeling import LanguageModelingOptions, Objective
from shardtune.trainer.tasks import causal
from shardtune.trainer.tasks.example import IGNORED, Example, frame_of, texts_of
from shardtune.trainer.tasks.language_modeling.masking import Masked, Masking
from shardtune.trainer.tasks.plain_text import ids_of, mark_special, special_notes
from shardtune.trainer.tasks.special_tokens import encode_plain, special_in
from shardtune.trainer.tasks.task import PreviewSpan, Task

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from shardtune.rows.source import Row
    from shardtune.trainer.tasks.batch import Batch


NUM_FILLINGS = 5
"""How many tokens predict returns for a [MASK]."""


class LanguageModeling(Task):
    """Rows of `text`, one document each; cross entropy over its tokens, and perplexity.

    Causal: in the examples of a document, each token but the first, and the end of the text, is a target once; the last
    label of an example is not among its inputs. Masked: examples have no labels; they are drawn in collate.
    """

    Options = LanguageModelingOptions
    columns = ("text",)
    column_guesses: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "text": ("content", "document", "body", "sentence", "raw_content", "文本", "内容", "正文"),
    }
    lower_is_better = frozenset({"loss", "perplexity"})
    auto_model = "AutoModelForCausalLM"
    wants_target_loss = True
    packable = True

    _options: LanguageModelingOptions

    def __init__(
        self,
        options: LanguageModelingOptions,
        facts: Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
    ) -> None:
        super().__init__(options, facts, tokenizer, config)
        self._objective: Objective = objective_of(config) if options.objective == "auto" else options.objective
        if self._objective == "masked":
            self.auto_model = "AutoModelForMaskedLM"
            self.packable = False

    def check_model(self, config: PreTrainedConfig) -> None:
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

        is_causal = self._objective == "causal"
        if config.is_encoder_decoder:
            raise DataError(
                f"model.path: {config.model_type} is an encoder-decoder; language_modeling needs a causal or a masked "
                "language model"
            )
        if type(config) not in (MODEL_FOR_CAUSAL_LM_MAPPING if is_causal else MODEL_FOR_MASKED_LM_MAPPING):
            raise DataError(f"model.path: transformers has no {self._objective} language model for {config.model_type}")
        if is_causal and objective_of(config) == "masked":
            raise DataError(
                f"task.objective: a {config.model_type} model attends to the next token, so a causal objective would "
                "teach it nothing; set it to masked"
            )
        if faults := self._options.misplaced_keys(self._objective):
            raise DataError("\n".join(f"task.{fault} (objective: auto)" for fault in faults))
        token = "eos_token" if is_causal else "mask_token"
        if getattr(self._tokenizer, token) is None:
            raise DataError(f"model.path: the tokenizer has no {token}; set one in its tokenizer_config.json")
        if self._options.whole_words and not self._tokenizer.is_fast:
            raise DataError(f"task.whole_words: {type(self._tokenizer).__name__} cannot tell which tokens form a word")

    def encode(self, rows: Sequence[Row], max_tokens: int, *, labeled: bool) -> list[list[Example]]:
        """The pieces of each document; none if all its tokens are special, such as unknown ones."""
        texts = [row.values["text"] for row in rows]
        if self._objective == "causal":
            documents = self._next_tokens(texts, max_tokens)
        else:
            # In predict, a mask token in the text is to be filled.
            documents = self._windows(texts, max_tokens, is_plain=self.escapes_special_tokens and labeled)
        if labeled and not self.escapes_special_tokens:
            mark_special(self._tokenizer, [[self._without_end(text)] for text in texts], documents)
        return [examples if not labeled or any(map(self.num_targets, examples)) else [] for examples in documents]

    def _without_end(self, text: str) -> str:
        """The text without the end that a document has in the data already, which is read as intended."""
        end = self._tokenizer.eos_token if self._objective == "causal" else None
        return text.rstrip().removesuffix(str(end)) if end else text

    def _next_tokens(self, texts: Sequence[str], max_tokens: int) -> list[list[Example]]:
        eos, special = self._tokenizer.eos_token_id, set(self._tokenizer.all_special_ids)
        stride = min(self._options.stride, max_tokens // 2)
        documents = []
        for ids in ids_of(self._tokenizer, texts, is_plain=self.escapes_special_tokens):
            whole = ids if ids[-1:] == [eos] else [*ids, eos]
            nothing = [{"input_ids": whole[:1], "labels": [IGNORED]}]
            documents.append(nothing if special.issuperset(whole) else cut(whole, max_tokens, stride))
        return documents

    def _windows(self, texts: Sequence[str], max_tokens: int, *, is_plain: bool) -> list[list[Example]]:
        before, after = frame_of(self._tokenizer)
        room = max_tokens - len(before) - len(after)
        if room < 1:
            raise DataError(f"data.max_tokens: {max_tokens} leaves no room for a text and its special tokens; raise it")
        encoded = self._tokenizer(texts, add_special_tokens=False, verbose=False)
        documents = []
        for number, text in enumerate(texts):
            ids = encoded["input_ids"][number]
            words: list[int] = []
            if self._options.whole_words:
                words = [-1 if word is None else word for word in encoded.word_ids(number)]
            if is_plain and special_in(self._tokenizer, text) is not None:
                (ids,) = encode_plain(self._tokenizer, [text], add_special_tokens=False)
                words = list(range(len(ids)))  # which of these tokens are a word is not known
            count = max(1, -(-len(ids) // room))
            # Of equal size, because the few tokens left for a last window would lack context.
            windows = list(pairwise(len(ids) * at // count for at in range(count + 1)))
            examples = [{"input_ids": [*before, *ids[start:end], *after]} for start, end in windows]
            if self._options.whole_words:
                for example, (start, end) in zip(examples, windows, strict=True):
                    example["words"] = [*(-1 for _ in before), *words[start:end], *(-1 for _ in after)]
            documents.append(examples)
        return documents

    @cached_property
    def _masking(self) -> Masking:
        special = self._tokenizer.all_special_ids
        return Masking(
            probability=self._options.mask_probability,
            mask_id=self._tokenizer.mask_token_id,
            special_ids=np.array(sorted(special), dtype=np.int64),
            other_ids=np.array(sorted({*self._tokenizer.get_vocab().values()} - {*special}), dtype=np.int64),
        )

    def _hide(self, example: Example, draw: tuple[int, int] | None) -> Masked:
        ids = example["input_ids"]
        return self._masking.hide(ids, example.get("words"), draw) if draw else Masked(ids, [IGNORED] * len(ids))

    def notes(self, split: str, noted: Mapping[str, int]) -> list[str]:
        return special_notes(split, noted)

    def preview(self, example: Example) -> list[PreviewSpan]:
        """Causal: including the token after the last one, if it is a target. Masked: one of many possible draws."""
        if self._objective == "causal":
            ids, labels = example["input_ids"], example["labels"]
            return causal.preview(
                {"input_ids": [*ids, *labels[-1:]], "labels": [*labels, IGNORED]} if labels[-1] != IGNORED else example,
                self._tokenizer,
            )
        ids, labels = self._hide(example, (0, 0))
        truth = texts_of(example["input_ids"], self._tokenizer)
        return [
            PreviewSpan(shown, None if label == IGNORED else true)
            for shown, true, label in zip(texts_of(ids, self._tokenizer), truth, labels, strict=True)
        ]

    def num_targets(self, example: Example) -> float:
        if self._objective == "causal":
            return causal.num_targets(example)
        return self._masking.num_targets(example["input_ids"])

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Masked: hides as many tokens as num_targets returns if the examples have a draw; otherwise none."""
        from shardtune.trainer.tasks.batch import Batch, pad, padded_inputs

        tokenizer = self._tokenizer
        pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        if self._objective == "causal":
            return causal.collate(examples, pad_id)
        shown = [self._hide(example, example.get("draw")) for example in examples]
        labels = pad([text.labels for text in shown], IGNORED)
        inputs = padded_inputs([text.input_ids for text in shown], pad_id)
        return Batch(inputs, labels).with_target_inputs()

    def loss_sum(self, output: Any, batch: Batch) -> Tensor:
        """Cross entropy, as the model returns it (trainer/model/target_loss.py)."""
        return causal.loss_sum(output)

    def score(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        return causal.score(output, batch)

    def loss_of_rows(self, output: Any, batch: Batch) -> Tensor:
        return causal.loss_of_rows(output, batch)

    def score_rows(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        return causal.score_rows(output, batch)

    def metrics(self, totals: Mapping[str, Tensor]) -> dict[str, Any]:
        return causal.metrics(totals)

    def predictions(self, output: Any, batch: Batch) -> list[dict[str, Any]]:
        """Causal: the summed loss and the number of each example's targets. Masked: tokens for each [MASK]."""
        from torch.nn.functional import cross_entropy

        if self._objective == "masked":
            is_hidden = batch.inputs["input_ids"] == self._tokenizer.mask_token_id
            return [
                {"fillings": [self._filling(logits) for logits in row[hidden]]}
                for row, hidden in zip(output.logits, is_hidden, strict=True)
            ]
        return [
            {
                "loss_sum": float(cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")),
                "num_tokens": int((labels != IGNORED).sum()),
            }
            for logits, labels in zip(output.logits, batch.labels, strict=True)
        ]

    def _filling(self, logits: Tensor) -> list[dict[str, Any]]:
        """The most likely tokens at one position, and their probabilities."""
        likeliest = logits.float().softmax(-1).topk(NUM_FILLINGS)
        return [
            {"token": str(self._tokenizer.decode([token])).strip(), "score": round(score, 6)}
            for token, score in zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
        ]

    def answer(self, row: Row, examples: Sequence[Example], predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Causal: the text's perplexity (None if there are no targets) and number of targets. Masked: a list for each
        [MASK], the most likely token first."""
        if self._objective == "masked":
            return {"fillings": [filling for prediction in predictions for filling in prediction["fillings"]]}
        num_tokens = sum(prediction["num_tokens"] for prediction in predictions)
        loss = sum(prediction["loss_sum"] for prediction in predictions) / max(1, num_tokens)
        return {"perplexity": causal.perplexity(loss) if num_tokens else None, "num_tokens": num_tokens}


def objective_of(config: PreTrainedConfig) -> Objective:
    """The objective that a model of this config was pretrained with."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    # BERT and similar models are in both lists; they are causal only if configured as decoders.
    causal_only = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()} - {*MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()}
    if getattr(config, "is_decoder", False) or causal_only & {*(config.architectures or ())}:
        return "causal"
    return "masked" if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES else "causal"


def cut(ids: Sequence[int], max_tokens: int, stride: int) -> list[Example]:
    """Pieces of at most max_tokens in which each token but the first is a target once; stride < max_tokens.

    A label is the next token, so the last label of a piece may be the first token of the following piece.
    """
    inputs, labels = ids[:-1], ids[1:]
    pieces: list[Example] = []
    done = 0
    while done < len(inputs):
        start = max(0, done - stride)
        end = min(len(inputs), start + max_tokens)
        learned = [*(IGNORED for _ in range(start, done)), *labels[done:end]]
        pieces.append({"input_ids": list(inputs[start:end]), "labels": learned})
        done = end
    return pieces
