"""The data of the NER recipe are CoNLL-2003's, in the original splits, and the reader sees every sentence."""

import pytest

from demo.conll import README, SPLITS, num_sentences, prepare
from demo.fetch import CACHE
from shardtune.rows.source import read_rows


def test_sentences_are_blocks_of_lines() -> None:
    assert num_sentences(b"-DOCSTART- O\r\n\r\nA O\r\nB O\r\n\r\n\r\n\r\nC O") == 2


@pytest.mark.parametrize(
    ("split", "sentences", "words"), [("train", 14041, 203621), ("valid", 3250, 51362), ("test", 3453, 46435)]
)
def test_the_real_splits_are_those_of_the_shared_task(split: str, sentences: int, words: int) -> None:
    assert f"{sentences:,} sentences" in prepare().splitlines()[1 + SPLITS.index(split)]
    rows = read_rows(CACHE / "demo" / "conll2003" / f"{split}.conll", {})
    assert (len(rows), sum(len(row.values["tokens"]) for row in rows)) == (sentences, words)
    assert (CACHE / "demo" / "conll2003" / "README.txt").read_text(encoding="utf-8") == README
