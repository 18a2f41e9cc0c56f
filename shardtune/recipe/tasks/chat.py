"""The `task` section of dialogue."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from shardtune.section import CAUSAL_METRICS, TaskOptions


class ChatOptions(TaskOptions):
    """Dialogue: trains on the assistant's replies in conversations, including the end of each turn, and on nothing
    else.

    A conversation longer than data.max_tokens is truncated; one without a target before that point is dropped and
    counted.
    """

    can_pack: ClassVar[bool] = True

    kind: Literal["chat"]
    format: Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion"] = "auto"
    """The format of the rows; `auto` decides by each row's columns. `messages` as for OpenAI; ShareGPT's
    `conversations`; `instruction`, `input` and `output` (alpaca); or `prompt` and `completion`, each a text or a list
    of messages, with the alternative names `question` and `query`, or `response`, `answer` and `reply`. A row may also
    have `system`, `tools` and, in the last two formats, `history`."""
    train_on: Literal["weights", "all", "last"] = "weights"
    """Which replies are trained on: `weights` weighs each reply by the `weight` of its message, 1 if it has none, and 0
    within a `prompt`; `all` weighs all replies equally; `last` takes only the last reply of each conversation."""
    system: str | None = None
    """The system message of conversations that have none."""
    chat_template: Literal["chatml", "llama3", "gemma", "zephyr"] | None = None
    """None uses the model's own chat template. Otherwise this one, whose special tokens are added to the model if it
    lacks them; it is exported with the model."""
    template_arguments: dict[str, bool | int | float | str] = Field(default={})
    """Extra arguments of the chat template, as in `{enable_thinking: false}`."""
    max_new_tokens: PositiveInt = 256
    """Maximum length of a generated reply, in tokens, in evaluations and predict."""
    generate_dev_rows: Annotated[int, Field(ge=0)] | None = 8
    """For how many conversations, evenly spaced, an evaluation during training generates the last reply; None generates
    all, 0 none."""
    generate_test_rows: Annotated[int, Field(ge=0)] | None = 8
    """The same for the test at the end."""
    show_replies: PositiveInt = 8
    """How many of these replies are shown in metrics.jsonl, the report and W&B."""
    reference_metrics: tuple[Literal["rouge_l", "bleu", "chrf"], ...] = ()
    """Metrics that compare generated replies with those in the data. rouge_l: mean F1 of the longest common subsequence
    of words (of characters in Chinese and Japanese); bleu, chrf: sacrebleu's corpus scores."""

    @model_validator(mode="after")
    def _replies_to_compare(self) -> ChatOptions:
        if self.reference_metrics and 0 in (self.generate_dev_rows, self.generate_test_rows):
            raise ValueError("reference_metrics compare replies; set generate_dev_rows and generate_test_rows above 0")
        return self

    def metric_names(self) -> tuple[str, ...]:
        return (*CAUSAL_METRICS, *self.reference_metrics)
