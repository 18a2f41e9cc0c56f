"""What a recipe may say of dialogue."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from shardtune.section import CAUSAL_METRICS, TaskOptions


class ChatOptions(TaskOptions):
    """Dialogue: the assistant's replies of conversations, with their ends of turn; nothing else of them is learned.

    A conversation of more than data.max_tokens is learned up to there; one without a target before is dropped, and
    counted.
    """

    can_pack: ClassVar[bool] = True

    kind: Literal["chat"]
    format: Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion"] = "auto"
    """What the rows are written in; `auto` looks at each row's columns. OpenAI's `messages`; ShareGPT's
    `conversations`; `instruction`, `input` and `output`; or `prompt` and `completion`, each a text or a list of
    messages, whose other names are `question`, `query`, and `response`, `answer`, `reply`. Beside them a row may have
    `system`, `tools` and, of the last two, `history`."""
    train_on: Literal["weights", "all", "last"] = "weights"
    """Which replies count: each as much as its message's `weight` says, 1 where it has none, and 0 in a `prompt`; all
    of them alike; or each conversation's last one."""
    system: str | None = None
    """The system text of conversations that have none."""
    chat_template: Literal["chatml", "llama3", "gemma", "zephyr"] | None = None
    """None takes the model's own chat template. Otherwise this one, whose special tokens the model gets if it lacks
    them; it is exported with the model."""
    template_arguments: dict[str, bool | int | float | str] = Field(default={})
    """What the chat template is told besides, as in `{enable_thinking: false}`."""
    max_new_tokens: PositiveInt = 256
    """The longest reply that an evaluation or predict asks for."""
    generate_dev_rows: Annotated[int, Field(ge=0)] | None = 8
    """In how many conversations, evenly spaced, an evaluation while training asks the model for the last reply; null
    for all of them."""
    generate_test_rows: Annotated[int, Field(ge=0)] | None = 8
    """The same for the test at the end."""
    show_replies: PositiveInt = 8
    """How many of these replies are shown, in metrics.jsonl, the report and W&B."""
    reference_metrics: tuple[Literal["rouge_l", "bleu", "chrf"], ...] = ()
    """How these replies are compared with the ones in the data. rouge_l: the mean F1 of the longest common subsequence
    of words, or of characters in Chinese and Japanese; bleu, chrf: sacrebleu's, of all of them together."""

    @model_validator(mode="after")
    def _replies_to_compare(self) -> ChatOptions:
        if self.reference_metrics and 0 in (self.generate_dev_rows, self.generate_test_rows):
            raise ValueError("reference_metrics compare replies; set generate_dev_rows and generate_test_rows above 0")
        return self

    def metric_names(self) -> tuple[str, ...]:
        return (*CAUSAL_METRICS, *self.reference_metrics)
