"""The two kinds of translation models: their inputs, their targets and their prompts.

An encoder-decoder reads the source and writes the target; a causal model continues a prompt that contains the source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from shardtune.errors import DataError
from shardtune.recipe.tasks.translation import PROMPT
from shardtune.trainer.tasks import causal
from shardtune.trainer.tasks.chat.conversations import Conversation
from shardtune.trainer.tasks.chat.template.turns import Turns
from shardtune.trainer.tasks.example import IGNORED, TRUNCATED, Example, frame_of, texts_of
from shardtune.trainer.tasks.languages import english_name, find_tag, primary
from shardtune.trainer.tasks.plain_text import ids_of, ids_within
from shardtune.trainer.tasks.special_tokens import special_in
from shardtune.trainer.tasks.task import PreviewSpan

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from shardtune.recipe.tasks.translation import TranslationOptions
    from shardtune.trainer.tasks.batch import Batch

ANY_LENGTH = 10**9


class Translator(Protocol):
    """One kind of model. Its examples also have `source` and `reference`, the texts of the row."""

    auto_model: str
    packable: bool
    settings: Mapping[str, Any]
    """Arguments of generate for the languages and the end of an answer."""
    note: str
    """What the user has to know of the prompts; "" for nothing."""

    def check(self, config: PreTrainedConfig) -> None:
        """Raises DataError if this model is of another kind."""

    def encode(
        self, sources: Sequence[str], targets: Sequence[str] | None, max_tokens: int, *, is_plain: bool = False
    ) -> list[Example | None]:
        """One example per pair, or per source; None where there is no room for a target.

        With `is_plain`, special tokens that are literally in a text are plain text.
        """

    def num_tokens(self, example: Example) -> int:
        """The number of tokens of both sides."""

    def preview(self, example: Example) -> list[PreviewSpan]:
        """The example as the loss sees it."""

    def collate(self, examples: Sequence[Example]) -> Batch:
        """The padded examples, for a model that returns the loss of its targets."""

    def collate_prompts(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """The inputs of generate."""

    def clean(self, answer: str) -> str:
        """The translation in an answer of the model."""


class EncoderDecoder:
    """Marian, T5, BART, mBART, M2M100, NLLB and others. Each side may have max_tokens.

    The size of a micro-batch is the number of tokens of both sides. If the sides of a row differ much in length, a
    micro-batch with its padding may exceed that size, but never by a factor of two.
    """

    auto_model = "AutoModelForSeq2SeqLM"
    packable = False
    note = ""

    def __init__(
        self, options: TranslationOptions, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
    ) -> None:
        if options.prompt != PROMPT or options.use_chat_template:
            raise DataError("task.prompt and task.use_chat_template apply to causal models only; use task.prefix")
        self._prefix = options.prefix
        self._tokenizer = tokenizer
        language = _set_languages(options, tokenizer)
        self._source_frame = frame_of(tokenizer)
        before, after = frame_of(tokenizer, as_target=True)
        start = getattr(config, "decoder_start_token_id", None)
        settings: dict[str, Any] = {}
        self._forced: int | None = None
        if language is not None:
            after = [token for token in after if token != language]
            if before == [] and not getattr(tokenizer, "legacy_behaviour", False):
                # mBART-25 and PLBart: the format is `text </s> language`, and the decoder begins with the language.
                start = settings["decoder_start_token_id"] = language
            else:
                # mBART-50, M2M100 and NLLB: the language comes first, and generate is forced to begin with it. (NLLB's
                # legacy tokenizers put it last, but no NLLB was trained so: transformers #22313.)
                before, self._forced = [language], language
                settings["forced_bos_token_id"] = language
        if start is None:
            raise DataError("model.path: the model's config has no decoder_start_token_id; set one in its config.json")
        if tokenizer.pad_token_id is None:
            raise DataError("model.path: the tokenizer has no pad_token; set one in its tokenizer_config.json")
        end = tokenizer.eos_token_id
        self._forced_text = "" if self._forced is None else str(tokenizer.decode([self._forced])).strip()
        self.settings: Mapping[str, Any] = settings
        self._start: int = start
        self._before, self._after = before, after if after or end is None else [end]
        if not self._after:
            raise DataError("model.path: the tokenizer has no eos_token, so the model would not learn when to stop")

    def check(self, config: PreTrainedConfig) -> None:
        from transformers import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

        if type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
            raise DataError(f"task.architecture: {config.model_type} is not an encoder-decoder")

    def encode(
        self, sources: Sequence[str], targets: Sequence[str] | None, max_tokens: int, *, is_plain: bool = False
    ) -> list[Example | None]:
        before, after = self._source_frame
        room = max_tokens - len(before) - len(after)
        if room < 1 or max_tokens <= len(self._before):
            raise DataError(f"data.max_tokens: {max_tokens} leaves no room for a text and its special tokens; raise it")
        bodies = self._bodies(sources, is_plain=is_plain)
        if targets is None:
            return [
                self._example([*before, *body[:room], *after], [], source=source)
                for source, body in zip(sources, bodies, strict=True)
            ]
        answers = ids_of(self._tokenizer, targets, is_plain=is_plain, as_target=True, add_special_tokens=False)
        examples: list[Example | None] = []
        for source, target, body, answer in zip(sources, targets, bodies, answers, strict=True):
            # A target that is cut off has no end of text: the model should not learn to stop halfway.
            whole = [*self._before, *answer, *self._after]
            cut = whole[:max_tokens]
            example = self._example([*before, *body[:room], *after], cut, source=source, reference=target)
            example[TRUNCATED] = max(0, len(body) - room) + len(whole) - len(cut)
            examples.append(example if answer and len(cut) > len(self._before) else None)
        return examples

    def _bodies(self, sources: Sequence[str], *, is_plain: bool) -> list[list[int]]:
        """The tokens of each prefix and source, without the special tokens around them."""
        texts = [f"{self._prefix}{source}" for source in sources]
        bodies = ids_of(self._tokenizer, texts, is_plain=False, add_special_tokens=False)
        for at, source in enumerate(sources if is_plain else ()):
            if special_in(self._tokenizer, source) is not None:
                bodies[at] = ids_within(self._tokenizer, [self._prefix, ""], source)
        return bodies

    def _example(self, ids: list[int], target: list[int], *, source: str, reference: str = "") -> Example:
        labels = [IGNORED if at == 0 and token == self._forced else token for at, token in enumerate(target)]
        decoder = [self._start, *target[:-1]]
        return {
            "input_ids": ids,
            "decoder_input_ids": decoder,
            "labels": labels or [IGNORED],
            "source": source,
            "reference": reference,
        }

    def num_tokens(self, example: Example) -> int:
        return len(example["input_ids"]) + len(example["labels"])

    def preview(self, example: Example) -> list[PreviewSpan]:
        read = [PreviewSpan(text) for text in texts_of(example["input_ids"], self._tokenizer)]
        written = texts_of([*example["decoder_input_ids"][1:], example["labels"][-1]], self._tokenizer)
        pieces = [
            PreviewSpan(text, None if label == IGNORED else text)
            for text, label in zip(written, example["labels"], strict=True)
        ]
        return [*read, PreviewSpan(" "), *pieces]

    def collate(self, examples: Sequence[Example]) -> Batch:
        from shardtune.trainer.tasks.batch import Batch, pad

        labels = pad([example["labels"] for example in examples], IGNORED)
        # The decoder needs no mask: padding is on the right, where no earlier token attends to it.
        decoder = pad([example["decoder_input_ids"] for example in examples], self._tokenizer.pad_token_id)
        inputs = self.collate_prompts(examples) | {"decoder_input_ids": decoder}
        return Batch(inputs, labels).with_target_inputs()

    def collate_prompts(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        from shardtune.trainer.tasks.batch import padded_inputs

        return padded_inputs([example["input_ids"] for example in examples], self._tokenizer.pad_token_id)

    def clean(self, answer: str) -> str:
        # M2M100's tokenizer does not treat its languages as special tokens, and decodes them (transformers 5.23).
        return answer.strip().removeprefix(self._forced_text).strip()


class Causal:
    """Language models that get a prompt; prompt and answer together may have max_tokens."""

    auto_model = "AutoModelForCausalLM"
    packable = True

    def __init__(
        self, options: TranslationOptions, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
    ) -> None:
        if options.prefix:
            raise DataError("task.prefix applies to encoder-decoders only; use task.prompt")
        for key in ("source_language", "target_language"):
            if f"{{{key}}}" in options.prompt and getattr(options, key) is None:
                raise DataError(f"task.{key} is used in task.prompt; set it, or change the prompt")
        self._prompt = options.prompt
        self._languages = {
            "source_language": english_name(options.source_language or ""),
            "target_language": english_name(options.target_language or ""),
        }
        self._tokenizer = tokenizer
        has_template = bool(tokenizer.chat_template)
        if options.use_chat_template and not has_template:
            raise DataError("task.use_chat_template: the tokenizer has no chat template; set this to false")
        is_chat = has_template if options.use_chat_template is None else options.use_chat_template
        if tokenizer.eos_token_id is None:
            raise DataError("model.path: the tokenizer has no eos_token, so the model would not learn when to stop")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._pad_id: int = tokenizer.pad_token_id
        self._end: int = tokenizer.eos_token_id
        self._turns: Turns | None = None
        self.note = ""
        if is_chat:
            try:
                self._turns = Turns(tokenizer, {})
            except DataError as error:
                raise DataError(f"{error}; or set task.use_chat_template=false") from error
            self._end = self._turns.end_of_turn
            self.note = self._turns.note
        self.settings: Mapping[str, Any] = {"eos_token_id": sorted({self._end, tokenizer.eos_token_id})}

    def check(self, config: PreTrainedConfig) -> None:
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise DataError(f"task.architecture: transformers has no causal language model for {config.model_type}")

    def encode(
        self, sources: Sequence[str], targets: Sequence[str] | None, max_tokens: int, *, is_plain: bool = False
    ) -> list[Example | None]:
        prompts = self._prompts(sources, is_plain=is_plain)
        if targets is None:
            return [
                self._example(
                    ids if len(ids) <= max_tokens else self._shortened(source, max_tokens, is_plain=is_plain),
                    [],
                    source=source,
                )
                for source, ids in zip(sources, prompts, strict=True)
            ]
        answers = ids_of(self._tokenizer, targets, is_plain=is_plain, add_special_tokens=False)
        examples: list[Example | None] = []
        for source, target, prompt, answer in zip(sources, targets, prompts, answers, strict=True):
            # An answer that is cut off has no end of turn: the model should not learn to stop halfway.
            learned = [*answer, self._end][: max(0, max_tokens - len(prompt))]
            example = self._example(prompt, learned, source=source, reference=target)
            example[TRUNCATED] = len(answer) + 1 - len(learned)
            examples.append(example if answer and learned else None)
        return examples

    def _example(self, prompt: list[int], answer: list[int], *, source: str, reference: str = "") -> Example:
        example = causal.example_of([*prompt, *answer], [0] * len(prompt) + [1] * len(answer))
        return example | {"prompt_length": len(prompt), "source": source, "reference": reference}

    def _prompts(self, sources: Sequence[str], *, is_plain: bool) -> list[list[int]]:
        texts = [self._prompt.format(source=source, **self._languages) for source in sources]
        if self._turns is None:
            prompts = ids_of(self._tokenizer, texts, is_plain=False)
            for at, source in enumerate(sources if is_plain else ()):
                if special_in(self._tokenizer, source) is not None:
                    parts = [part.format(**self._languages) for part in self._prompt.split("{source}")]
                    prompts[at] = [*frame_of(self._tokenizer)[0], *ids_within(self._tokenizer, parts, source)]
            # Some tokenizers append the end of text, but a prompt continues.
            return [ids[:-1] if ids[-1] == self._tokenizer.eos_token_id else ids for ids in prompts]
        self._turns.escapes = is_plain
        turns = [Conversation(messages=[{"role": "user", "content": text.strip()}], weights=[0.0]) for text in texts]
        return [self._turns.prompt(turn, ANY_LENGTH) for turn in turns]

    def _shortened(self, source: str, max_tokens: int, *, is_plain: bool) -> list[int]:
        """The prompt with as much of the source as fits."""
        (prompt,) = self._prompts([source], is_plain=is_plain)
        (ids,) = ids_of(self._tokenizer, [source], is_plain=is_plain, add_special_tokens=False)
        while len(prompt) > max_tokens:
            ids = ids[: max(0, len(ids) - (len(prompt) - max_tokens))]
            if not ids:
                raise DataError(
                    f"data.max_tokens: {max_tokens} leaves no room for a source within the prompt; raise it"
                )
            text = str(self._tokenizer.decode(ids, skip_special_tokens=True))
            (prompt,) = self._prompts([text], is_plain=is_plain)
        return prompt

    def num_tokens(self, example: Example) -> int:
        return len(example["input_ids"])

    def preview(self, example: Example) -> list[PreviewSpan]:
        return causal.preview(example, self._tokenizer)

    def collate(self, examples: Sequence[Example]) -> Batch:
        return causal.collate(examples, self._pad_id)

    def collate_prompts(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        prompts = [example["input_ids"][: example["prompt_length"]] for example in examples]
        return causal.collate_prompts(prompts, self._pad_id)

    def clean(self, answer: str) -> str:
        return answer.strip()


def _set_languages(options: TranslationOptions, tokenizer: Any) -> int | None:
    """Sets the languages of a multilingual tokenizer; returns the token of the target language.

    None if the tokenizer has no languages. Raises DataError if it lacks these languages, or if they are ambiguous.
    """
    codes = _language_codes(tokenizer)
    if not codes:
        if options.source_code or options.target_code:
            raise DataError("task.source_code, task.target_code: the tokenizer has no languages; remove the keys")
        return None
    chosen = {}
    for side in ("source", "target"):
        code, language = getattr(options, f"{side}_code"), getattr(options, f"{side}_language")
        found = [code] if code in codes else find_tag(language, codes) if language and not code else []
        if len(found) != 1:
            wanted = code or language
            problem = f"unknown language {wanted!r}" if wanted else f"the tokenizer needs a {side} language"
            problem = f"{language!r} may be {' or '.join(found)}" if len(found) > 1 else problem
            near = [known for known in codes if primary(known)[:2] == primary(wanted or "")[:2]]
            raise DataError(f"task.{side}_code: {problem}; legal: {', '.join(near or codes)}")
        chosen[side] = found[0]
    tokenizer.src_lang, tokenizer.tgt_lang = chosen["source"], chosen["target"]
    return codes[chosen["target"]]


def _language_codes(tokenizer: Any) -> dict[str, int]:
    """The language codes of a multilingual tokenizer and their tokens; empty if it has none."""
    if not hasattr(tokenizer, "src_lang") or not hasattr(tokenizer, "tgt_lang"):
        return {}
    if (tokens := getattr(tokenizer, "lang_code_to_token", None)) is not None:  # M2M100: `fr` and `__fr__`
        return {code: int(tokenizer.convert_tokens_to_ids(token)) for code, token in tokens.items()}
    pattern = re.compile(r"[a-z]{2,3}_[A-Z][A-Za-z]{1,3}")  # fr_XX, fra_Latn
    named = [token for token in tokenizer.all_special_tokens if pattern.fullmatch(token)]
    return {code: int(tokenizer.convert_tokens_to_ids(code)) for code in named}
