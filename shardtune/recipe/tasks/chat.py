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
    predicts_tokens: ClassVar[bool] = True

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
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] = Field(default={})
    """What else the roles of messages are called in the data, as in `{Patient: user, Doctor: assistant}`. Known without
    it, whatever their capitals: developer, human, gpt, model, bot, ai, function, observation and similar names."""
    chat_template: Literal["chatml", "llama3", "gemma", "zephyr"] | None = None
    """None uses the model's own chat template. Otherwise this one, whose special tokens are added to the model if it
    lacks them; it is exported with the model."""
    template_arguments: dict[str, bool | int | float | str] = Field(default={})
    """Extra arguments of the chat template, as in `{enable_thinking: false}`. A template that writes today's date
    always gets the same one, which is reported; `fixed_date: 2026-01-31` sets another."""
    turns: Literal["auto", "together", "apart"] = "auto"
    """How a conversation with several replies is learned. `together`: as one example, which the chat template must
    render alike whatever follows. `apart`: each reply as an example of its own, after the prompt that asks for it; each
    then counts as a row. `auto` takes apart only the conversations that the template does not render alike, because it
    drops the thoughts of earlier replies (Qwen3) or moves the system text to the last question (Mistral), and prints
    how many these are."""
    thoughts: Literal["keep", "drop"] | None = None
    """Thoughts before replies, in `<think>` tags or in `reasoning_content`, `reasoning` or `thinking`. None learns them
    where the chat template shows them in the last reply; rows with tags that it drops are refused. `keep` puts dropped
    thoughts in front of the answer; `drop` learns the answers alone."""
    system_turn: Literal["first_user"] | None = None
    """`first_user` puts the system text in front of the first question, for chat templates without system turns. None
    leaves it to the chat template."""
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
    def _roles_are_names(self) -> ChatOptions:
        plain = [name.strip().lower() for name in self.roles]
        if "" in plain:
            raise ValueError("roles: a name is empty; remove it")
        for name, role in self.roles.items():
            if plain.count(name.strip().lower()) > 1:
                raise ValueError(f"roles: {name!r} is given twice; capitals do not matter")
            if name.strip().lower() in ("system", "user", "assistant", "tool") and name.strip().lower() != role:
                raise ValueError(f"roles: {name!r} is a role itself and cannot be read as {role}; remove it")
        return self

    @model_validator(mode="after")
    def _kept_thoughts_need_room(self) -> ChatOptions:
        if self.thoughts == "keep" and self.turns == "together":
            raise ValueError(
                "thoughts: keep needs replies of their own where the chat template drops thoughts; set turns=auto"
            )
        return self

    @model_validator(mode="after")
    def _replies_to_compare(self) -> ChatOptions:
        if self.reference_metrics and 0 in (self.generate_dev_rows, self.generate_test_rows):
            raise ValueError("reference_metrics compare replies; set generate_dev_rows and generate_test_rows above 0")
        return self

    def metric_names(self) -> tuple[str, ...]:
        return (*CAUSAL_METRICS, *self.reference_metrics)
