"""Confident learning (Northcutt et al., 2021): which labels a model disagrees with by more than its usual doubt.

The threshold of a class is the mean probability that the model gives it where it is the label. A label is suspected if
another class reaches its own threshold. So a class of which the model is rarely sure, and one that it overrates, are
judged by their own measure, and no probability has to be calibrated.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Judged:
    """Labels, and how likely a model takes each class to be instead; an example may have many, such as one a word."""

    examples: Numbers
    """The number of the example that each label is in; shape (labels,)."""
    positions: Numbers
    """Where in its example each label is; 0 for the label of a text."""
    questions: Numbers
    """To which question each label is the answer: 0, or the number of one of several labels that a text may have."""
    given: Numbers
    """The class that each label is."""
    probabilities: Probabilities
    """Of each class; shape (labels, classes)."""

    def __len__(self) -> int:
        return len(self.given)

    @property
    def likeliest(self) -> Numbers:
        """The class that the model predicts in place of each label."""
        classes: Numbers = self.probabilities.argmax(1)
        return classes

    def probability_of(self, classes: Numbers) -> Probabilities:
        """The probability of one class for each label."""
        return self.probabilities[np.arange(len(classes)), classes]

    @classmethod
    def joined(cls, parts: "list[Judged]") -> "Judged":
        """The labels of several parts, of which there is at least one."""
        names = ("examples", "positions", "questions", "given", "probabilities")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def chosen(self, which: NDArray[np.bool_] | Numbers) -> "Judged":
        """Some of the labels."""
        names = ("examples", "positions", "questions", "given", "probabilities")
        return Judged(*(getattr(self, name)[which] for name in names))


def thresholds(judged: Judged) -> NDArray[np.float64]:
    """The mean probability of each class where it is the label, by question; infinite for a class that no label is.

    Shape (questions, classes).
    """
    num_questions = int(judged.questions.max(initial=0)) + 1
    num_classes = judged.probabilities.shape[1]
    cells = judged.questions * num_classes + judged.given
    counts = np.bincount(cells, minlength=num_questions * num_classes)
    sums = np.bincount(cells, judged.probability_of(judged.given), minlength=num_questions * num_classes)
    means: NDArray[np.float64] = np.divide(sums, counts, out=np.full(len(sums), np.inf), where=counts > 0)
    return means.reshape(num_questions, num_classes)


def suggested(judged: Judged) -> Numbers:
    """The class that each label should rather be, or the class that it is.

    Another class is suggested if the model predicts another one, and it is the likeliest of those that reach their
    thresholds.
    """
    reaching = judged.probabilities >= thresholds(judged)[judged.questions] - 1e-6
    confident = np.where(reaching, judged.probabilities, -1.0).argmax(1)
    is_suspect = reaching.any(1) & (judged.likeliest != judged.given)
    return np.where(is_suspect, confident, judged.given)
