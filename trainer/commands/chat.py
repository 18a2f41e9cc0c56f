"""A conversation with the model of a finished run, in a terminal: a reply appears while it is being said.

`python -m shardtune.trainer.commands.chat RUN_DIR`; or with the questions on standard input, a line each.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shardtune.errors import CheckpointError, DataError, ShardtuneError
from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_USER
from shardtune.trainer.commands.predict import find_model, open_model
from shardtune.trainer.tasks.chat.chat import Chat
from shardtune.trainer.tasks.chat.conversations import Conversation, Message
from shardtune.trainer.tasks.chat.turns import TurnError

HELP = """\
/reset          forgets what was said
/system TEXT    begins anew with this system text; without a text, with none
/help           these lines
Ctrl-C stops a reply, Ctrl-D leaves."""
ASK = "> "


class Talk:
    """A conversation that remembers what was said; its replies are handed to `write` as they come."""

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
        """A temperature of 0 always takes the likeliest token. Raises DataError if a prompt has no room."""
        from shardtune.trainer.between_steps.generate import settings_of

        assert task.generation is not None, "a chat generates"
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._room = longest - max_new_tokens if longest else sys.maxsize
        if self._room < 1:
            raise DataError(
                f"--max-new-tokens={max_new_tokens}: the model has {longest} positions for prompt and reply"
            )
        self._task, self._model, self._tokenizer, self._write = task, model, tokenizer, write
        self._settings = settings_of(task.generation, tokenizer) | {"max_new_tokens": max_new_tokens}
        if temperature > 0:
            self._settings |= {"do_sample": True, "temperature": temperature}
        self.begin(system)

    def begin(self, system: str | None) -> None:
        """Forgets what was said, and has this system text."""
        self.system = system
        self.messages: list[Message] = [{"role": "system", "content": system}] if system is not None else []

    def ask(self, text: str) -> None:
        """Says the reply, and remembers as much of it as was said before a Ctrl-C.

        Raises TurnError if the chat template cannot write the question; then it is forgotten.
        """
        import torch

        asked = [*self.messages, {"role": "user", "content": text}]
        prompt = self._task.prompt(Conversation(messages=asked, weights=[]), self._room)
        ids = torch.tensor([prompt], device=self._model.device)
        said: list[str] = []
        streamer = _streamer(self._tokenizer, said, self._write)
        try:
            with torch.inference_mode():
                self._model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), streamer=streamer, **self._settings
                )
        except KeyboardInterrupt:
            streamer.end()
        self._write("\n")
        if reply := "".join(said).strip():
            self.messages = [*asked, {"role": "assistant", "content": reply}]


def _streamer(tokenizer: Any, said: list[str], write: Callable[[str], None]) -> Any:
    """What generate hands its tokens to: whole words, collected and written."""
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            said.append(text)
            write(text)

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)


def converse(talk: Talk, read: Callable[[], str], write: Callable[[str], None]) -> None:
    """Answers line by line until there are no more."""
    while True:
        try:
            line = read().strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            write("\n(Ctrl-D leaves)\n")
            continue
        word, _, rest = line.partition(" ")
        match word:
            case "":
                continue
            case "/help":
                write(f"{HELP}\n")
            case "/reset":
                talk.begin(talk.system)
            case "/system":
                talk.begin(rest.strip() or None)
            case _ if word.startswith("/"):
                write(f"there is no {word}\n{HELP}\n")
            case _:
                try:
                    talk.ask(line)
                except TurnError as error:
                    write(f"({error})\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser("shardtune chat", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--model", default="best", choices=("best", "last"))
    parser.add_argument("--system")
    parser.add_argument("--max-new-tokens", type=_positive)
    parser.add_argument("--temperature", type=_temperature, default=0.7)
    arguments = parser.parse_args(argv)
    try:
        recipe, folder, facts = find_model(arguments.run_dir, arguments.model)
        if recipe.task.kind != "chat":
            raise CheckpointError(
                f"{arguments.run_dir}: its task is {recipe.task.kind}, and only a chat's model can be talked to; "
                f'`shardtune predict {arguments.run_dir} --text "…"` asks this one'
            )
        import transformers

        transformers.utils.logging.set_verbosity_error()
        task, model, tokenizer = open_model(recipe, folder, facts)
        assert isinstance(task, Chat) and task.generation is not None, "the kind says so"
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
        import readline  # noqa: F401  gives input() a history and arrow keys

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
        raise argparse.ArgumentTypeError(f"expected a number from 0, always the likeliest, to 100, got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
