"""Multiple choice by a causal language model: the likeliest continuation of a question is its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar

from shardtune.errors import DataError
from shardtune.recipe.tasks.multiple_choice import MultipleChoiceOptions
from shardtune.rows.source import Columns, Faults, Row, columns_of
from shardtune.trainer.tasks.chat.conversations import Conversation
from shardtune.trainer.tasks.chat.template.turns import Turns
from shardtune.trainer.tasks.example import IGNORED, TRUNCATED, Example, texts_of
from shardtune.trainer.tasks.multiple_choice.rows import LETTERS, answer_of, check_answer, check_question, choices_of
from shardtune.trainer.tasks.plain_text import ids_of, mark_special, special_notes
from shardtune.trainer.tasks.task import ColumnSurvey, PreviewSpan, Survey, Task

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from shardtune.trainer.tasks.batch import Batch

ANY_LENGTH = 10**9
UNLIKELY = -1e9
"""The log-likelihood of a choice that a question with fewer choices lacks."""


class MultipleChoiceSurvey(ColumnSurvey):
    """Finds the rows whose answer is none of their choices."""

    def __init__(self, options: MultipleChoiceOptions) -> None:
        super().__init__(MultipleChoice)
        self._options = options

    def observe(self, split: str, rows: Sequence[Row], faults: Faults) -> Columns:
        for row in rows:
            check_question(row, faults)
            check_answer(row, self._options, faults)
        return columns_of(rows)


class MultipleChoice(Task):
    """Rows of `question`, `choices` and `answer`. The loss of a row is the cross entropy over its choices, whose logits
    are the log-likelihoods of their tokens after the prompt; accuracy by these sums (Gao et al., lm-evaluation-harness,
    `acc`) and by their means per token (Brown et al., 2020, section 2.4).

    An example has the tokens of all its choices, each with the prompt before it, one after the other in `input_ids`.
    """

    Options = MultipleChoiceOptions
    columns = ("question", "choices", "answer")
    input_columns = ("question", "choices")
    column_guesses: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "question": ("query", "ctx", "stem", "goal", "prompt", "问题", "题目"),
        "choices": ("options", "endings", "candidates", "选项"),
        "answer": ("label", "answerkey", "gold", "correct", "答案"),
    }
    main_metric = "accuracy"
    auto_model = "AutoModelForCausalLM"
    wants_target_loss = True
    has_row_per_example = False

    _options: MultipleChoiceOptions

    def __init__(
        self,
        options: MultipleChoiceOptions,
        facts: Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
    ) -> None:
        super().__init__(options, facts, tokenizer, config)
        if options.use_chat_template and not tokenizer.chat_template:
            raise DataError("task.use_chat_template: the tokenizer has no chat template; set this to false")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._turns = Turns(tokenizer, {}) if options.use_chat_template else None

    @classmethod
    def check_inputs(cls, row: Row, faults: Faults) -> None:
        check_question(row, faults)

    @classmethod
    def text_row(cls, text: str) -> dict[str, Any]:
        """The first line is the question, each other one a choice."""
        question, *choices = [line for line in text.splitlines() if line.strip()] or [text]
        return {"question": question, "choices": choices}

    @staticmethod
    def named_columns(options: MultipleChoiceOptions, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The choices in the columns A, B, …, of a row without `choices`."""
        letters = list(takewhile(values.__contains__, LETTERS))
        return (
            {"choices": [values[letter] for letter in letters]} if len(letters) > 1 and "choices" not in values else {}
        )

    @staticmethod
    def survey(options: MultipleChoiceOptions) -> Survey:
        return MultipleChoiceSurvey(options)

    def check_model(self, config: PreTrainedConfig) -> None:
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

        from shardtune.trainer.tasks.language_modeling.language_modeling import objective_of

        is_causal = not config.is_encoder_decoder and type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
        if not is_causal or objective_of(config) == "masked":
            raise DataError(
                f"model.path: multiple_choice needs a causal language model, and {config.model_type} is none; "
                "an encoder can learn it as classification of pairs of question and choice (text, text_pair)"
            )
        if self._tokenizer.pad_token is None:
            raise DataError(
                "model.path: the tokenizer has no pad_token and no eos_token; set one in tokenizer_config.json"
            )

    # The examples.

    def encode(self, rows: Sequence[Row], max_tokens: int, *, labeled: bool) -> list[list[Example]]:
        """One example for each row; none if a choice alone is longer than max_tokens. Of longer prompts the beginning
        is left out."""
        by_row: list[list[Example]] = []
        for row in rows:
            question, (choices, _) = row.values["question"], choices_of(row.values)
            pairs = [self._tokens(question, choice) for choice in choices]
            cut = [max(0, len(prompt) + len(choice) - max_tokens) for prompt, choice in pairs]
            if any(len(choice) >= max_tokens for _, choice in pairs):
                by_row.append([])
                continue
            parts = [
                ([prompt[0], *prompt[1 + lost :]], choice) for (prompt, choice), lost in zip(pairs, cut, strict=True)
            ]
            example: Example = {
                "input_ids": [token for prompt, choice in parts for token in (*prompt, *choice)],
                "prompt_lengths": [len(prompt) for prompt, _ in parts],
                "choice_lengths": [len(choice) for _, choice in parts],
                "labels": [answer_of(row.values, self._options) if labeled else IGNORED],
                TRUNCATED: sum(cut),
            }
            by_row.append([example])
        if labeled and not self.escapes_special_tokens:
            texts = [[row.values["question"], *choices_of(row.values)[0]] for row in rows]
            mark_special(self._tokenizer, texts, by_row)
        return by_row

    def _tokens(self, question: str, choice: str) -> tuple[list[int], list[int]]:
        """The tokens of the prompt, at least one, and those of the choice after it."""
        is_plain = self.escapes_special_tokens
        text = self._options.prompt.replace("{question}", question)
        if self._turns is not None:
            self._turns.escapes = is_plain
            turn = Conversation(messages=[{"role": "user", "content": text.strip()}], weights=[0.0])
            (reply,) = ids_of(self._tokenizer, [choice], is_plain=is_plain, add_special_tokens=False)
            return self._turns.prompt(turn, ANY_LENGTH), reply
        before, whole = ids_of(self._tokenizer, [text, f"{text}{self._options.separator}{choice}"], is_plain=is_plain)
        end = self._tokenizer.eos_token_id
        before, whole = ([*ids[:-1]] if ids[-1:] == [end] and len(ids) > 1 else ids for ids in (before, whole))
        # The last token of the prompt may become another one before the choice.
        common = next((at for at, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
        common = min(common, len(whole) - 1)
        if common == 0:  # without anything before it, the first token would have no likelihood
            start = self._tokenizer.bos_token_id if self._tokenizer.bos_token_id is not None else end
            return [start], whole
        return whole[:common], whole[common:]

    def num_tokens(self, example: Example) -> int:
        """Those of its padded choices."""
        lengths = _lengths(example)
        return len(lengths) * max(lengths)

    def num_targets(self, example: Example) -> float:
        return float(example["labels"][0] != IGNORED)

    def preview(self, example: Example) -> list[PreviewSpan]:
        """The prompt, and the choices, of which the right one is the target."""
        rows = _rows(example)
        spans = []
        for number, (ids, prompt) in enumerate(zip(rows, example["prompt_lengths"], strict=True)):
            texts = texts_of(ids, self._tokenizer)
            if number == 0:
                spans += [PreviewSpan(text) for text in texts[:prompt]]
            choice = "".join(texts[prompt:])
            spans.append(PreviewSpan(f"\n{choice}", choice.strip() if number == example["labels"][0] else None))
        return spans

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Rows of input_ids are choices, as many for each example; labels are the numbers of the right ones, of shape
        (examples,). The targets of the model are the tokens of the choices."""
        import numpy as np
        import torch

        from shardtune.trainer.tasks.batch import EACH_TARGET, Batch, pad, padded_inputs

        most = max(len(example["choice_lengths"]) for example in examples)
        rows, labels = [], []
        for example in examples:
            pieces, prompts = _rows(example), example["prompt_lengths"]
            missing = most - len(pieces)
            rows += [*pieces, *([pieces[0][:1]] * missing)]
            labels += [
                [*[IGNORED] * (prompt - 1), *ids[prompt:], IGNORED] for ids, prompt in zip(pieces, prompts, strict=True)
            ] + [[IGNORED]] * missing
        tokens = pad(labels, IGNORED)
        positions = torch.from_numpy(np.flatnonzero(tokens.numpy() != IGNORED))
        inputs: dict[str, Any] = padded_inputs(rows, self._tokenizer.pad_token_id)
        inputs |= {
            "targets": tokens.flatten()[positions],
            "target_positions": positions,
            EACH_TARGET: True,
        }
        return Batch(inputs, torch.tensor([example["labels"][0] for example in examples]))

    # Loss and metrics.

    def loss_sum(self, output: Any, batch: Batch) -> Tensor:
        return self.loss_of_rows(output, batch).sum()

    def loss_of_rows(self, output: Any, batch: Batch) -> Tensor:
        from torch.nn.functional import cross_entropy

        sums, _ = _likelihoods(output.logits[0], batch)
        return cross_entropy(sums, batch.labels, ignore_index=IGNORED, reduction="none")

    def score(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        return {name: counts.sum() for name, counts in self.score_rows(output, batch).items()}

    def score_rows(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Whether the likeliest choice is right, by sums and by means; shape (examples,)."""
        sums, counts = _likelihoods(output.logits[0], batch)
        is_counted = batch.labels != IGNORED
        right = (sums.argmax(1) == batch.labels) & is_counted
        right_per_token = ((sums / counts.clamp(min=1)).argmax(1) == batch.labels) & is_counted
        return {
            "right": right.double(),
            "right_per_token": right_per_token.double(),
            "questions": is_counted.double(),
        }

    def metrics(self, totals: Mapping[str, Tensor]) -> dict[str, Any]:
        num = max(1.0, float(totals["questions"]))
        return {
            "accuracy": float(totals["right"]) / num,
            "accuracy_per_token": float(totals["right_per_token"]) / num,
        }

    @property
    def proportions(self) -> frozenset[str]:
        return frozenset({"accuracy", "accuracy_per_token"})

    def notes(self, split: str, noted: Mapping[str, int]) -> list[str]:
        return special_notes(split, noted)

    # The predictions.

    def predictions(self, output: Any, batch: Batch) -> list[dict[str, Any]]:
        """The log-likelihood of each choice."""
        from torch.nn.functional import cross_entropy

        logits = output.logits.flatten(0, 1)[batch.inputs["target_positions"]].float()
        losses = cross_entropy(logits, batch.inputs["targets"], reduction="none")
        sums, counts = _likelihoods(losses, batch)
        return [
            {"likelihoods": [float(value) for value, count in zip(of_row, tokens, strict=True) if count]}
            for of_row, tokens in zip(sums, counts, strict=True)
        ]

    def answer(self, row: Row, examples: Sequence[Example], predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The likeliest choice, its number from 0, and the probability of each among the choices."""
        import torch

        (only,) = predictions
        scores = torch.tensor(only["likelihoods"], dtype=torch.float64).softmax(0).tolist()
        best = max(range(len(scores)), key=scores.__getitem__)
        choices, _ = choices_of(row.values)
        return {"choice": choices[best], "index": best, "scores": [round(score, 6) for score in scores]}


def _likelihoods(losses: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The log-likelihood of each choice, from the loss of each token, and the number of its tokens; of shape
    (examples, most choices)."""
    num_rows, longest = batch.inputs["input_ids"].shape
    rows = batch.inputs["target_positions"].div(longest, rounding_mode="floor")
    sums = losses.new_zeros(num_rows).index_add(0, rows, -losses)
    counts = losses.new_zeros(num_rows).index_add(0, rows, losses.new_ones(losses.shape))
    shape = (len(batch.labels), num_rows // len(batch.labels))
    return sums.masked_fill(counts == 0, UNLIKELY).view(shape), counts.view(shape)


def _lengths(example: Example) -> list[int]:
    return [a + b for a, b in zip(example["prompt_lengths"], example["choice_lengths"], strict=True)]


def _rows(example: Example) -> list[list[int]]:
    """The tokens of each choice with the prompt before it."""
    rows, start = [], 0
    for length in _lengths(example):
        rows.append(list(example["input_ids"][start : start + length]))
        start += length
    return rows
