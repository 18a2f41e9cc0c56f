"""What a recipe may say of text classification."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, PositiveFloat, Tag, model_validator

from shardtune.section import TaskOptions

ONLY_FOR = {
    "label_names": ("single_label", "multi_label"),
    "label_separator": ("multi_label",),
    "threshold": ("multi_label",),
    "tune_thresholds": ("multi_label",),
    "class_weights": ("single_label",),
    "label_smoothing": ("single_label",),
}
"""The problems that a key says something about."""


METRICS = {
    "single_label": ("accuracy", "f1_macro", "f1_micro", "mcc"),
    "multi_label": ("f1_micro", "f1_macro", "f1_samples", "subset_accuracy"),
    "regression": ("mse", "mae", "pearson", "spearman"),
}
"""The metrics of each problem that are one number."""


class ClassificationOptions(TaskOptions):
    """Classification of texts, or of pairs of texts if there is a `text_pair`: one label, several, or a number."""

    kind: Literal["classification"]
    problem: Literal["single_label", "multi_label", "regression"] = "single_label"
    """What `label` holds: a name; a list of names, which may be empty (in CSV: a text, see label_separator); or a
    number. The loss is cross entropy, its mean over the rows; binary cross entropy, its mean over all pairs of a row
    and a label; or squared error, its mean over the rows."""
    label_names: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """The labels in the order of their ids. None takes those of the training rows, sorted."""
    label_separator: Annotated[str, Field(min_length=1)] = ","
    """multi_label: what stands between the names of a `label` that is a text."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """multi_label: a label is found where its probability is at least this."""
    tune_thresholds: bool = False
    """multi_label: each label gets the threshold with the best F1 on dev instead (that of `threshold` if no dev row has
    the label). Every evaluation on dev tunes them anew, so that its own metrics are a little too good; test, predict
    and the exported model's evaluation.json have those of the best model."""
    class_weights: Annotated[
        Annotated[Literal["none", "balanced"], Tag("word")] | Annotated[dict[str, PositiveFloat], Tag("mapping")],
        Discriminator(lambda value: "mapping" if isinstance(value, dict) else "word"),
    ] = "none"
    """single_label: how much a row counts in the loss, by its label: all alike, all labels alike (`balanced`), or as in
    `{spam: 5}`, where a label that is not named has 1. Weights are scaled to a mean of 1 over the training rows, and
    the loss is the mean over the rows of weight x loss. Metrics count every row alike."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """single_label: this part of a row's label is spread evenly over all labels."""

    @model_validator(mode="after")
    def _keys_fit_the_problem(self) -> ClassificationOptions:
        fields = type(self).model_fields
        faults = [
            f"{key} says nothing about problem {self.problem}, only about {' and '.join(problems)}; remove it"
            for key, problems in ONLY_FOR.items()
            if self.problem not in problems and getattr(self, key) != fields[key].default
        ]
        if self.label_names and isinstance(self.class_weights, dict):
            unknown = ", ".join(sorted(self.class_weights.keys() - set(self.label_names)))
            faults += [f"class_weights: {unknown}: not in label_names"] if unknown else []
        if self.label_names and len(set(self.label_names)) < len(self.label_names):
            faults.append("label_names: a name is there twice")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def metric_names(self) -> tuple[str, ...]:
        return METRICS[self.problem]
