"""Texts of logs and samples as a terminal can show them."""

import pytest
from rich.cells import cell_len

from shardtune.launcher.runs.terminal.plain_text import as_ascii, fitted, shown_text, wrapped


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m and \x1b]0;title\x07plain", "red and plain"),
        ("\x9b31mred", "red"),
        ("10%\r 50%\r100%\n", "100%"),
        ("a\tb", "a   b"),
        ("a\0b\x08c\u2028d\u202ee\x85f", "a b c d e f"),
        ("训练 café 😀", "训练 café 😀"),
        ("\x1b", " "),
    ],
)
def test_only_what_stays_on_its_line_is_shown(text: str, shown: str) -> None:
    assert shown_text(text) == shown


@pytest.mark.parametrize("width", range(1, 12))
def test_a_fitted_text_has_exactly_its_width_also_if_letters_are_wide(width: int) -> None:
    for text in ("", "abc", "a long name", "训练数据", "a训b练c", "😀😀😀"):
        assert cell_len(fitted(text, width)) == cell_len(fitted(text, width, at_right=True)) == width
    assert (fitted("abcdef", 4), fitted("ab", 4), fitted("ab", 4, at_right=True)) == ("abc…", "ab  ", "  ab")


def test_long_texts_are_broken_at_spaces_and_long_words_anywhere() -> None:
    assert wrapped("the loss of step 12", 8) == ["the loss", "of step", "12"]
    assert wrapped("训练数据的说明 ok", 6) == ["训练数", "据的说", "明 ok"]
    assert wrapped("", 8) == [""]
    assert max(cell_len(part) for part in wrapped("x" * 50 + " 训" * 30, 7)) <= 7


def test_ascii_has_as_many_cells_as_what_it_stands_for() -> None:
    assert as_ascii("▸● ├─┤ 训练… é") == ">* +-+ ????~ ?"
