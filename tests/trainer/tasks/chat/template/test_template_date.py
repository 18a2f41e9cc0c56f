"""A chat template that writes today's date writes the same one every day."""

from pathlib import Path
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from shardtune.errors import DataError
from shardtune.recipe.load import parse_recipe
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.tasks import task_of
from shardtune.trainer.tasks.chat.conversations import Conversation
from shardtune.trainer.tasks.chat.template.template_date import date_note, fixed_date
from shardtune.trainer.tasks.chat.template.turns import Turns
from tests.support.tiny import byte_tokenizer, write_causal

TODAY = "{{ 'Today Date: ' + strftime_now('%d %b %Y') + '<|im_end|>' }}"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASKED = Conversation(messages=[{"role": "user", "content": "hi"}], weights=[])


def prompt(template: str, **arguments: Any) -> str:
    tokenizer = byte_tokenizer("<|im_start|>", "<|im_end|>", eos_token="<|im_end|>", chat_template=template)
    return str(tokenizer.decode(Turns(tokenizer, arguments).prompt(ASKED, 100)))


def test_the_date_is_a_fixed_one_or_the_recipes() -> None:
    assert prompt(TODAY + CHATML).startswith("Today Date: 26 Jul 2024<|im_end|>")
    assert prompt(TODAY + CHATML, fixed_date="2026-01-31").startswith("Today Date: 31 Jan 2026<|im_end|>")


def test_only_a_template_that_writes_it_is_said_to() -> None:
    assert date_note(TODAY + CHATML, {}).startswith(
        "the chat template writes today's date: it is always 2024-07-26 here"
    )
    assert "always 2026-01-31 here" in date_note(TODAY, {"fixed_date": "2026-01-31"})
    assert date_note(CHATML, {}) == ""


def test_what_is_no_date_is_refused() -> None:
    with pytest.raises(DataError, match=r"task\.template_arguments: fixed_date: expected a date such as 2024-07-26"):
        prompt(TODAY + CHATML, fixed_date="tomorrow")


def test_a_dialogue_says_so(tmp_path: Path) -> None:
    folder = write_causal(tmp_path / "model", ["hi", "Today", "Date:"], chat_template=TODAY + CHATML)
    text = f"task: {{kind: chat}}\nmodel: {{path: {folder}}}\ndata: {{train: x}}"
    recipe = parse_recipe(text)
    task = task_of(recipe, {"bleu_tokenizer": "13a"}, load_tokenizer(recipe), load_model_config(recipe))
    assert task.model_notes == [date_note(TODAY, {})]


def test_the_clock_runs_on_also_after_an_error() -> None:
    running = chat_template_utils.datetime
    with pytest.raises(KeyError), fixed_date({}):
        assert chat_template_utils.datetime.now().year == 2024
        raise KeyError
    assert chat_template_utils.datetime is running
