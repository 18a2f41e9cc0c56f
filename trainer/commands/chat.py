"""Chats with the model of a finished run in a terminal; replies are streamed.

`python -m shardtune.trainer.commands.chat RUN_DIR`; without a terminal, each line of standard input is a question.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shardtune.argument_parser import OneLineParser
from shardtune.errors import CheckpointError, DataError, ShardtuneError
from shardtune.processes import run_piped
from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_USER
from shardtune.shell_line import shell_line
from shardtune.trainer.commands.predict import find_model, open_model
from shardtune.trainer.tasks.chat.chat import Chat
from shardtune.trainer.tasks.chat.conversations import Conversation, Message
from shardtune.trainer.tasks.chat.template.turns import TurnError

HELP = """\
/reset          start a new conversation
/system TEXT    start a new conversation with this system text; without a text, with none
/help           show this help
/exit           end the chat; so do /quit and Ctrl-D
Ctrl-C stops a reply."""
ASK = "> "


class Talk:
    """A conversation that keeps its messages; replies are streamed to `write`."""

    def __init__(
        self,
        task: Chat,
        model: Any,
        tokenizer: Any,
        *,
        system: str | None,
        max_new_tokens: int,
        temperature: float,
        write: Callable[[str], None],
    ) -> None:
        """With a temperature of 0 the likeliest token is taken. Raises DataError if no room is left for a prompt."""
        from shardtune.trainer.evaluation.generate import settings_of

        assert task.generation is not None, "a chat generates"
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._room = longest - max_new_tokens if longest else sys.maxsize
        if self._room < 1:
            raise DataError(
                f"--max-new-tokens={max_new_tokens}: the model has {longest} positions for prompt and reply together"
            )
        self._task, self._model, self._tokenizer, self._write = task, model, tokenizer, write
        self._settings = settings_of(task.generation, tokenizer) | {"max_new_tokens": max_new_tokens}
        if temperature > 0:
            self._settings |= {"do_sample": True, "temperature": temperature}
        self.begin(system)

    def begin(self, system: str | None) -> None:
        """Starts a new conversation with this system text."""
        self.system = system
        self.messages: list[Message] = [{"role": "system", "content": system}] if system is not None else []

    def ask(self, text: str) -> None:
        """Streams the reply, and keeps as much of it as was written before a Ctrl-C.

        Raises TurnError if the chat template cannot render the question, which is then not kept.
        """
        import torch

        asked = [*self.messages, {"role": "user", "content": text}]
        prompt = self._task.prompt(Conversation(messages=asked, weights=[]), self._room)
        ids = torch.tensor([prompt], device=self._model.device)
        reply: list[str] = []
        streamer = _streamer(self._tokenizer, reply, self._write)
        try:
            with torch.inference_mode():
                self._model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), streamer=streamer, **self._settings
                )
        except KeyboardInterrupt:
            streamer.end()
        self._write("\n")
        if content := "".join(reply).strip():
            self.messages = [*asked, {"role": "assistant", "content": content}]


def _streamer(tokenizer: Any, reply: list[str], write: Callable[[str], None]) -> Any:
    """A streamer for generate that appends whole words to `reply` and writes them."""
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            reply.append(text)
            write(text)

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)


def converse(talk: Talk, read: Callable[[], str], write: Callable[[str], None]) -> None:
    """Answers each line until the end of the input."""
    while True:
        try:
            line = read().strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            write("\n(/exit or Ctrl-D ends the chat)\n")
            continue
        word, _, rest = line.partition(" ")
        match word:
            case "":
                continue
            case "/exit" | "/quit":
                return
            case "/help":
                write(f"{HELP}\n")
            case "/reset":
                talk.begin(talk.system)
            case "/system":
                talk.begin(rest.strip() or None)
            case _ if word.startswith("/"):
                write(f"unknown command {word}\n{HELP}\n")
            case _:
                try:
                    talk.ask(line)
                except TurnError as error:
                    write(f"({error})\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = OneLineParser("shardtune chat", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="a run directory")
    parser.add_argument("--model", default="best", choices=("best", "last"), help="the exported model to use")
    parser.add_argument("--system", help="the system text (default: the recipe's)")
    parser.add_argument("--max-new-tokens", type=_positive, help="the longest reply (default: the recipe's)")
    parser.add_argument("--temperature", type=_temperature, default=0.7, help="0 takes the likeliest token")
    arguments = parser.parse_args(argv)
    try:
        recipe, folder, facts = find_model(arguments.run_dir, arguments.model)
        if recipe.task.kind != "chat":
            raise CheckpointError(
                f"{arguments.run_dir}: chatting needs a model of task chat, not {recipe.task.kind}; use "
                f'`{shell_line("predict", arguments.run_dir)} --text "…"`'
            )
        import transformers

        transformers.utils.logging.set_verbosity_error()
        task, model, tokenizer = open_model(recipe, folder, facts)
        assert isinstance(task, Chat) and task.generation is not None, "a chat recipe has a chat task"
        talk = Talk(
            task,
            model,
            tokenizer,
            system=arguments.system if arguments.system is not None else task.system,
            max_new_tokens=arguments.max_new_tokens or task.generation.max_new_tokens,
            temperature=arguments.temperature,
            write=_print,
        )
    except ShardtuneError as error:
        print(error, file=sys.stderr)
        return EXIT_USER
    if sys.stdin.isatty():
        import readline  # noqa: F401  gives input() history and arrow keys

        _print(f"{folder}\n{HELP}\n")
        converse(talk, lambda: input(ASK), _print)
        _print("\n")
    else:
        converse(talk, input, _print)
    return EXIT_OK


def _print(text: str) -> None:
    print(text, end="", flush=True)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"expected a number from 0 (the likeliest token) to 100, got {text!r}")
    return value


if __name__ == "__main__":
    run_piped(main)
