"""Predictions of either side -> the same counts and the same metric, so that no side is scored by its own rules."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.cases import Case, Row
from shardtune.trainer.tasks.token_classification.spans import spans_of

Counts = NDArray[np.int64]
Scorer = Callable[[Counts], float]
"""How often each row counts, shape (rows,) -> the metric."""


def gold_of(case: Case, rows: Sequence[Row]) -> list[Any]:
    """The right answer of each row: a label, a number, or the entities as [type, first, end] in words."""
    if case.kind == "token_classification":
        return [entities_of(row["tags"]) for row in rows]
    return [row["label"] for row in rows]


def entities_of(tags: Sequence[str]) -> list[list[Any]]:
    """The entities of BIO tags as [type, first word, word after the last]."""
    return [[type_, first, end] for first, end, type_ in spans_of(list(tags))]


def answers_of(case: Case, predictions: Sequence[Row]) -> list[Any]:
    """The answers in the lines that `shardtune predict` writes, in the form of gold_of."""
    answers = [row["prediction"] for row in predictions]
    if case.kind != "token_classification":
        return [answer["label"] for answer in answers]
    return [
        [_in_words(row["tokens"], span) for span in answer["spans"]]
        for row, answer in zip(predictions, answers, strict=True)
    ]


def _in_words(tokens: Sequence[str], span: Row) -> list[Any]:
    """A span in letters of the tokens, which are joined by spaces, as one in words."""
    starts = np.cumsum([0, *(len(token) + 1 for token in tokens)]).tolist()
    return [span["type"], starts.index(span["start"]), starts.index(span["end"] + 1)]


def scorer_of(case: Case, gold: Sequence[Any], answers: Sequence[Any]) -> Scorer:
    """The metric of these answers, as a function of how often each row counts."""
    if len(gold) != len(answers):
        raise ValueError(f"{case.name}: {len(answers)} answers for {len(gold)} rows")
    return {"accuracy": _accuracy, "f1": _f1, "pearson": _pearson}[case.metric](gold, answers)


def mean_of(scorers: Sequence[Scorer]) -> Scorer:
    """The mean of the metric over several models, each on the same rows."""
    return lambda times: math.fsum(scorer(times) for scorer in scorers) / len(scorers)


def _accuracy(gold: Sequence[Any], answers: Sequence[Any]) -> Scorer:
    is_right = np.array([right == answer for right, answer in zip(gold, answers, strict=True)])
    return lambda times: float(times @ is_right / times.sum())


def _f1(gold: Sequence[Any], answers: Sequence[Any]) -> Scorer:
    """Of entities whose type and borders are right."""
    pairs = [(set(map(tuple, right)), set(map(tuple, answer))) for right, answer in zip(gold, answers, strict=True)]
    hits = np.array([len(right & answer) for right, answer in pairs])
    both = np.array([len(right) + len(answer) for right, answer in pairs])
    return lambda times: float(2 * (times @ hits) / max(1, times @ both))


def _pearson(gold: Sequence[Any], answers: Sequence[Any]) -> Scorer:
    x, y = np.array(gold, dtype=np.float64), np.array(answers, dtype=np.float64)

    def score(times: Counts) -> float:
        weights = times / times.sum()
        of_x, of_y = x - weights @ x, y - weights @ y
        spread = (weights @ of_x**2) * (weights @ of_y**2)
        return float((weights @ (of_x * of_y)) / math.sqrt(spread)) if spread > 0 else 0.0

    return score
