"""Dialogue: a causal language model learns the assistant's replies, as its chat template writes them.

What a row says is conversations.py's to tell, and where in it the assistant speaks turns.py's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from shardtune.errors import DataError
from shardtune.recipe.tasks.chat import ChatOptions
from shardtune.rows.source import Faults, Row
from shardtune.section import TaskOptions
from shardtune.trainer.tasks import causal, rouge
from shardtune.trainer.tasks.chat.conversations import COLUMNS, Conversation, format_of, read_conversation
from shardtune.trainer.tasks.chat.templates import CHAT_TEMPLATES, install
from shardtune.trainer.tasks.chat.turns import Turn, TurnError, Turns, Written
from shardtune.trainer.tasks.example import TRUNCATED, Example
from shardtune.trainer.tasks.languages import NUM_LOOKED_AT, Letters, bleu_tokenizer, letters_of
from shardtune.trainer.tasks.task import Generation, PreviewSpan, Scores, Survey
from shardtune.trainer.tasks.text_scores import TextScores

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from shardtune.trainer.tasks.batch import Batch


FIRST_REPLIES = 8
"""So many replies of a conversation are looked at first."""


class _Look(NamedTuple):
    formats: Counter[str]
    num_replies: int
    letters: Letters


class ChatSurvey:
    """What each split's rows are written in, and how many replies they have."""

    def __init__(self, options: ChatOptions) -> None:
        self._options = options
        self.facts: dict[str, Any] = {}

    def look(self, split: str, rows: Sequence[Row], faults: Faults) -> _Look:
        formats = Counter[str]()
        replies: list[str] = []
        num_replies = 0
        for row in rows:
            conversation = read_conversation(row, faults, format_=self._options.format)
            if conversation is None:
                continue
            formats[str(format_of(row.values)) if self._options.format == "auto" else self._options.format] += 1
            said = [its["content"] for its in conversation.messages if its["role"] == "assistant"]
            num_replies += len(said)
            replies += said if len(replies) < NUM_LOOKED_AT else []
        return _Look(formats, num_replies, letters_of(replies))

    def learn(self, looks: Mapping[str, Sequence[_Look]], faults: Faults) -> bool:
        self.facts = {
            "formats": {
                split: dict(sum((look.formats for look in its), Counter[str]())) for split, its in looks.items()
            },
            "replies": {split: sum(look.num_replies for look in its) for split, its in looks.items()},
            "bleu_tokenizer": bleu_tokenizer(None, (look.letters for its in looks.values() for look in its)),
        }
        return False

    def recall(self, facts: Mapping[str, Any]) -> bool:
        return False


class Chat:
    """Rows of conversations; cross entropy over the replies' tokens; and what the model itself replies."""

    Options: ClassVar[type[TaskOptions]] = ChatOptions
    columns: ClassVar[tuple[str, ...]] = ("messages",)
    input_columns: ClassVar[tuple[str, ...]] = COLUMNS
    column_guesses: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(COLUMNS, ())
    """What a row is written in is read from its own columns (conversations.py)."""
    main_metric: ClassVar[str] = "perplexity"
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss", "perplexity"})
    auto_model: str = "AutoModelForCausalLM"
    wants_target_loss: bool = True
    packable: bool = True

    def __init__(
        self,
        options: ChatOptions,
        facts: Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
    ) -> None:
        """Raises DataError if the model has no chat template and none is chosen, or if nothing is learned from it."""
        ends = {tokenizer.eos_token_id}
        if options.chat_template is not None:
            install(options.chat_template, tokenizer)
        if not tokenizer.chat_template:
            raise DataError(
                "model.path: the tokenizer has no chat template; choose one by task.chat_template: "
                + ", ".join(CHAT_TEMPLATES)
            )
        self._options = options
        self._scores = TextScores(facts["bleu_tokenizer"])
        self._tokenizer = tokenizer
        self._turns = Turns(tokenizer, options.template_arguments)
        if tokenizer.pad_token is None:
            tokenizer.pad_token_id = self._turns.end_of_turn
        ends |= {tokenizer.eos_token_id, self._turns.end_of_turn}
        longest = getattr(config.get_text_config(), "max_position_embeddings", None)
        self._prompt_room: int | None = longest - options.max_new_tokens if longest else None
        self.generation: Generation | None = Generation(
            max_new_tokens=options.max_new_tokens,
            num_dev_rows=options.generate_dev_rows,
            num_test_rows=options.generate_test_rows,
            num_shown=options.show_replies,
            settings={"eos_token_id": sorted(end for end in ends if end is not None)},
        )

    @staticmethod
    def named_columns(options: ChatOptions, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return {}

    @staticmethod
    def survey(options: ChatOptions) -> Survey:
        return ChatSurvey(options)

    def model_config(self) -> dict[str, Any]:
        return {}

    def check_model(self, config: PreTrainedConfig) -> None:
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise DataError(f"model.path: transformers has no causal language model of type {config.model_type}")
        if self._prompt_room is not None and self._prompt_room < 1:
            raise DataError(
                f"task.max_new_tokens: {self._options.max_new_tokens} leave no room for a prompt in a model of "
                f"{self._prompt_room + self._options.max_new_tokens} positions"
            )

    @staticmethod
    def check_inputs(row: Row, faults: Faults) -> None:
        read_conversation(row, faults, answered=False)

    def encode(self, rows: Sequence[Row], max_tokens: int, *, labelled: bool) -> list[list[Example]]:
        faults = Faults()
        read = [self._read(row, faults, answered=labelled) for row in rows]
        faults.raise_if_any()
        if not labelled:
            examples = [self._question(row, its, max_tokens, faults) for row, its in zip(rows, read, strict=True)]
            faults.raise_if_any()
            return examples
        learned = [[at for at, weight in enumerate(its.weights) if weight] for its in read]
        written: dict[int, Written] = {}
        turns: dict[int, list[Turn]] = {at: [] for at, its in enumerate(learned) if its}
        while turns:
            # Of a conversation that goes on for ever only what is before max_tokens has to be written, and not all.
            for at, known in list(turns.items()):
                more = learned[at][len(known) : max(FIRST_REPLIES, 2 * len(known))]
                try:
                    turns[at] = self._turns.texts(read[at], more, known)
                except TurnError as error:
                    faults.add(rows[at], str(error))
                    del turns[at]
            for at, its in zip(list(turns), self._turns.write(list(turns.values())), strict=True):
                if isinstance(its, TurnError):
                    faults.add(rows[at], str(its))
                    del turns[at]
                    continue
                written[at] = its
                if len(turns[at]) == len(learned[at]) or len(its.ids) >= max_tokens:
                    del turns[at]
        faults.raise_if_any()
        return [
            self._examples(conversation, written[at], max_tokens) if at in written else []
            for at, conversation in enumerate(read)
        ]

    def _read(self, row: Row, faults: Faults, *, answered: bool) -> Conversation:
        """With the recipe's system text and weights."""
        read = read_conversation(row, faults, format_=self._options.format, answered=answered)
        if read is None:
            return Conversation(messages=[], weights=[])
        messages, weights = read.messages, read.weights
        if self._options.train_on != "weights":
            replies = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
            chosen = replies if self._options.train_on == "all" else replies[-1:]
            weights = [float(at in chosen) for at in range(len(messages))]
        if self._options.system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self._options.system}, *messages]
            weights = [0.0, *weights]
        return Conversation(messages=messages, weights=weights, tools=read.tools)

    def _examples(self, conversation: Conversation, written: Written, max_tokens: int) -> list[Example]:
        """One, or none if no target is before max_tokens.

        `prompt_tokens` is how many of the tokens ask for the last of the replies, and `reference` what it says.
        """
        replies = [reply for reply in written.replies if reply.start < max_tokens]
        if not replies:
            return []
        weights = [0.0] * len(written.ids)
        for reply in replies:
            weights[reply.start : reply.end] = [conversation.weights[reply.message]] * (reply.end - reply.start)
        last = replies[-1]
        end = min(last.end, max_tokens)
        reference = self._tokenizer.decode(written.ids[last.start : last.end], skip_special_tokens=True)
        example = causal.example_of(written.ids[:end], weights[:end])
        cut = len(written.ids) > max_tokens or len(written.replies) < sum(weight > 0 for weight in conversation.weights)
        # Of a long conversation only its beginning was written: then this is the least that was lost.
        num_lost = max(int(cut), len(written.ids) - end)
        return [example | {"prompt_tokens": last.start, "reference": str(reference).strip(), TRUNCATED: num_lost}]

    def _question(self, row: Row, conversation: Conversation, max_tokens: int, faults: Faults) -> list[Example]:
        try:
            ids = self.prompt(conversation, max_tokens)
        except TurnError as error:
            faults.add(row, str(error))
            return []
        return [causal.example_of(ids, [0.0] * len(ids)) | {"prompt_tokens": len(ids), "reference": ""}]

    @property
    def system(self) -> str | None:
        """The system text of conversations that have none."""
        return self._options.system

    def prompt(self, conversation: Conversation, max_tokens: int) -> list[int]:
        """The tokens that ask for the next reply. Raises TurnError if its last round has more than these."""
        return self._turns.prompt(conversation, max_tokens)

    @staticmethod
    def label_counts(facts: Mapping[str, Any]) -> Mapping[str, Mapping[str, int]]:
        """The formats that the rows are written in."""
        counts: Mapping[str, Mapping[str, int]] = facts["formats"]
        return counts

    def preview(self, example: Example) -> list[PreviewSpan]:
        return causal.preview(example, self._tokenizer)

    def num_tokens(self, example: Example) -> int:
        return len(example["input_ids"])

    def num_targets(self, example: Example) -> float:
        return causal.num_targets(example)

    def collate(self, examples: Sequence[Example]) -> Batch:
        return causal.collate(examples, self._pad_id)

    def collate_prompts(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """A prompt that leaves no room for a reply among the model's positions loses its beginning."""
        room = self._prompt_room
        prompts = [example["input_ids"][: example["prompt_tokens"]] for example in examples]
        return causal.collate_prompts([its[-room:] if room else its for its in prompts], self._pad_id)

    @property
    def _pad_id(self) -> int:
        return int(self._tokenizer.pad_token_id)

    def loss_sum(self, output: Any, batch: Batch) -> Tensor:
        """Cross entropy over the replies' tokens, as the model says it (trainer/model/target_loss.py)."""
        return causal.loss_sum(output)

    def score(self, output: Any, batch: Batch) -> Scores:
        return causal.score(output, batch)

    def score_answers(self, answers: Sequence[str], examples: Sequence[Example]) -> dict[str, Tensor]:
        said, references = [answer.strip() for answer in answers], [example["reference"] for example in examples]
        counts = rouge.count(said, references) if "rouge_l" in self._options.reference_metrics else {}
        return {**counts, **(self._scores.count(said, references) if self._wants_sacrebleu else {})}

    def metrics(self, totals: Mapping[str, Tensor]) -> dict[str, Any]:
        compared: dict[str, Any] = {"rouge_l": rouge.rouge_l(totals)} if "rouge_l_sum" in totals else {}
        if self._wants_sacrebleu:
            scores = self._scores.metrics(totals)
            wanted = [name for name in ("bleu", "chrf") if name in self._options.reference_metrics]
            compared |= {key: scores[key] for name in wanted for key in (name, f"{name}_signature")}
        return {**causal.metrics(totals), **compared}

    @property
    def _wants_sacrebleu(self) -> bool:
        return bool({"bleu", "chrf"} & set(self._options.reference_metrics))

    def calibrate(self, dev_metrics: Mapping[str, Any]) -> None:
        """Nothing of dev is needed."""

    def show_answer(self, answer: str, example: Example) -> dict[str, str]:
        prompt = self._tokenizer.decode(example["input_ids"][: example["prompt_tokens"]])
        return {"prompt": str(prompt), "answer": answer.strip(), "reference": example["reference"]}

    def prediction(self, answer: str) -> dict[str, Any]:
        return {"reply": answer.strip()}

    def predictions(self, output: Any, batch: Batch) -> list[dict[str, Any]]:
        raise AssertionError("a chat's replies are generated")

    @staticmethod
    def text_row(text: str) -> dict[str, Any]:
        return {"prompt": text}

    def answer(self, row: Row, examples: Sequence[Example], predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        (only,) = predictions
        return only
