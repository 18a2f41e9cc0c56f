"""A wrong argument of a module is one line."""

import pytest

from shardtune.argument_parser import OneLineParser
from shardtune.trainer.commands import predict


def test_a_wrong_value_is_one_line_without_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        predict.main(["run", "--model=worst"])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("shardtune predict: argument --model: invalid choice: 'worst'")


def test_a_missing_word_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    parser = OneLineParser("a command")
    parser.add_argument("folder")
    with pytest.raises(SystemExit):
        parser.parse_args([])
    assert capsys.readouterr().err == "a command: the following arguments are required: folder\n"
