"""Translation of texts into another language, by an encoder-decoder or by a causal model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from shardtune.recipe.tasks.translation import TranslationOptions
from shardtune.rows.source import Faults, Row, check_text
from shardtune.trainer.tasks import causal
from shardtune.trainer.tasks.example import Example
from shardtune.trainer.tasks.languages import NUM_LOOKED_AT, Letters, bleu_tokenizer, find_tag, letters_of
from shardtune.trainer.tasks.plain_text import mark_special, special_notes
from shardtune.trainer.tasks.task import GeneratingTask, Generation, PreviewSpan, Survey
from shardtune.trainer.tasks.text_scores import TextScores
from shardtune.trainer.tasks.translation.models import Causal, EncoderDecoder, Translator

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from shardtune.trainer.tasks.batch import Batch


class TranslationSurvey(Survey):
    """Finds out the tokenizer of BLEU, which must stay the same when the run is resumed elsewhere."""

    observed = (Letters,)

    def __init__(self, options: TranslationOptions) -> None:
        super().__init__()
        self._options = options

    def observe(self, split: str, rows: Sequence[Row], faults: Faults) -> Letters:
        for row in rows:
            for side in Translation.columns:
                _check(row, side, faults)
        targets = (row.values.get("target") for row in rows[:NUM_LOOKED_AT])
        return letters_of(target for target in targets if isinstance(target, str))

    def conclude(self, observations: Mapping[str, Sequence[Letters]], faults: Faults) -> bool:
        chosen: str = self._options.bleu_tokenizer
        if chosen == "auto":
            chosen = bleu_tokenizer(self._options.target_language, observations["train"])
        self.facts = {"bleu_tokenizer": chosen}
        return False


class Translation(GeneratingTask):
    """Rows of `source` and `target`; cross entropy over the target's tokens; sacrebleu's BLEU and chrF."""

    Options = TranslationOptions
    columns = ("source", "target")
    input_columns = ("source",)
    column_guesses: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "source": ("src", "source_text", "text"),
        "target": ("tgt", "target_text", "reference"),
        "translation": (),
    }
    main_metric = "bleu"
    lower_is_better = frozenset({"loss", "perplexity"})
    wants_target_loss = True

    def __init__(
        self,
        options: TranslationOptions,
        facts: Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
    ) -> None:
        super().__init__(options, facts, tokenizer, config)
        is_encoder_decoder = (
            config.is_encoder_decoder if options.architecture == "auto" else options.architecture == "encoder_decoder"
        )
        self._translator: Translator = (
            EncoderDecoder(options, tokenizer, config) if is_encoder_decoder else Causal(options, tokenizer, config)
        )
        self._scores = TextScores(facts["bleu_tokenizer"])
        self.auto_model = self._translator.auto_model
        self.packable = self._translator.packable
        self.generation = Generation(
            max_new_tokens=options.max_new_tokens,
            num_beams=options.num_beams,
            num_dev_rows=options.dev_rows,
            settings=self._translator.settings,
        )

    @staticmethod
    def named_columns(options: TranslationOptions, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The columns `source` and `target`, where they can be found by their languages."""
        by_language = values.get("translation")
        # In translation data sets, `source` alone is often the origin of a row.
        known = {"source", "target"} & values.keys()
        if len(known) == 2 or (known and not isinstance(by_language, Mapping)):
            return {}
        by_language = by_language if isinstance(by_language, Mapping) else values
        tags = [name for name in by_language if isinstance(name, str)]
        languages = {"source": options.source_language, "target": options.target_language}
        found = {side: find_tag(language, tags) for side, language in languages.items() if language is not None}
        return {side: by_language[names[0]] for side, names in found.items() if len(names) == 1}

    @staticmethod
    def survey(options: TranslationOptions) -> Survey:
        return TranslationSurvey(options)

    def check_model(self, config: PreTrainedConfig) -> None:
        self._translator.check(config)

    @property
    def model_notes(self) -> list[str]:
        return [self._translator.note] if self._translator.note else []

    @staticmethod
    def check_inputs(row: Row, faults: Faults) -> None:
        _check(row, "source", faults)

    def encode(self, rows: Sequence[Row], max_tokens: int, *, labeled: bool) -> list[list[Example]]:
        sources = [row.values["source"] for row in rows]
        targets = [row.values["target"] for row in rows] if labeled else None
        is_plain = self.escapes_special_tokens
        examples = self._translator.encode(sources, targets, max_tokens, is_plain=is_plain)
        by_row = [[example] if example is not None else [] for example in examples]
        if targets is not None and not is_plain:
            mark_special(self._tokenizer, list(zip(sources, targets, strict=True)), by_row)
        return by_row

    def notes(self, split: str, noted: Mapping[str, int]) -> list[str]:
        return special_notes(split, noted)

    def preview(self, example: Example) -> list[PreviewSpan]:
        return self._translator.preview(example)

    def num_tokens(self, example: Example) -> int:
        return self._translator.num_tokens(example)

    def collate(self, examples: Sequence[Example]) -> Batch:
        return self._translator.collate(examples)

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
        return {**causal.metrics(totals), **self._scores.metrics(totals)}

    def collate_prompts(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        return self._translator.collate_prompts(examples)

    def score_answers(self, answers: Sequence[str], examples: Sequence[Example]) -> dict[str, Tensor]:
        cleaned = [self._translator.clean(answer) for answer in answers]
        return self._scores.count(cleaned, [example["reference"] for example in examples])

    def show_answer(self, answer: str, example: Example) -> dict[str, str]:
        return {
            "prompt": example["source"],
            "answer": self._translator.clean(answer),
            "reference": example["reference"],
        }

    def prediction(self, answer: str) -> dict[str, Any]:
        return {"translation": self._translator.clean(answer)}


def _check(row: Row, side: str, faults: Faults) -> None:
    """Adds a fault if this side is not a non-empty text."""
    if side in row.values:
        check_text(row, side, faults)
        return
    by_language = row.values.get("translation")
    names = [f"translation.{name}" for name in by_language] if isinstance(by_language, Mapping) else list(row.columns)
    found = ", ".join(names) or "nothing"
    faults.add(row, f"no {side}; found: {found}. Set its language (task.{side}_language) or its column (data.columns)")
