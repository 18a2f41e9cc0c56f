"""The `task` section of text classification."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, PositiveFloat, Tag, model_validator

from shardtune.section import TaskOptions, TextFiles

ONLY_FOR = {
    "label_names": ("single_label", "multi_label"),
    "label_separator": ("multi_label",),
    "threshold": ("multi_label",),
    "tune_thresholds": ("multi_label",),
    "class_weights": ("single_label",),
    "label_smoothing": ("single_label",),
}
"""Key -> the problems that it applies to."""
EARLIER = {"label_separator": (",",)}
"""Defaults of earlier versions, which stand in the resolved recipes of their runs."""


METRICS = {
    "single_label": ("accuracy", "f1_macro", "f1_micro", "mcc", "ece"),
    "multi_label": ("f1_micro", "f1_macro", "f1_samples", "subset_accuracy"),
    "regression": ("mse", "mae", "pearson", "spearman"),
}
"""The metrics of each problem that are a single number."""


class ClassificationOptions(TaskOptions):
    """Classification of texts, or of pairs of texts if rows have a `text_pair`: one label, several labels, or a
    number."""

    has_labels: ClassVar[bool] = True
    list_columns: ClassVar[frozenset[str]] = frozenset({"label"})
    text_files: ClassVar[TextFiles] = "classes"

    kind: Literal["classification"]
    problem: Literal["single_label", "multi_label", "regression"] = "single_label"
    """What `label` holds: one name (single_label); any number of names (multi_label): a list, a text (see
    label_separator), zeros and ones in the order of label_names, or one column per label (see data.columns); or a
    number (regression). The loss is cross entropy, averaged over rows; binary cross entropy,
    averaged over all combinations of a row and a label; or squared error, averaged over rows."""
    label_names: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """The labels in the order of their ids. None uses the labels of the training rows, sorted."""
    label_separator: Annotated[str, Field(min_length=1)] | None = None
    """multi_label: separates the names in a `label` that is a text. None takes the only one of `,`, `;` and `|` that
    occurs in any label."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """multi_label: a label is predicted if its probability is at least this."""
    tune_thresholds: bool = False
    """multi_label: uses for each label the threshold with the best F1 on dev (`threshold` if no dev row has the label).
    Every evaluation on dev tunes them again, so its own metrics are slightly optimistic; test, predict and the exported
    model's evaluation.json use the thresholds of the best model."""
    class_weights: Annotated[
        Annotated[Literal["none", "balanced"], Tag("word")] | Annotated[dict[str, PositiveFloat], Tag("mapping")],
        Discriminator(lambda value: "mapping" if isinstance(value, dict) else "word"),
    ] = "none"
    """single_label: the weight of a row in the loss, by its label: `none` weighs all rows equally, `balanced` all
    labels equally, and a mapping such as `{spam: 5}` gives weights, 1 for labels that are not listed. Weights are
    scaled to a mean of 1 over the training rows, and the loss, on dev and test too, is the mean over rows of weight x
    loss. Metrics are not weighted."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """single_label: the fraction of each label's probability that is spread evenly over all labels. The loss, on dev
    and test too, is that of the smoothed labels; metrics are those of the labels themselves."""

    @model_validator(mode="after")
    def _keys_fit_the_problem(self) -> ClassificationOptions:
        fields = type(self).model_fields
        faults = [
            f"{key} does not apply to problem {self.problem}, only to {' and '.join(problems)}; remove it"
            for key, problems in ONLY_FOR.items()
            if self.problem not in problems and getattr(self, key) not in (fields[key].default, *EARLIER.get(key, ()))
        ]
        if self.label_names and isinstance(self.class_weights, dict):
            unknown = ", ".join(sorted(self.class_weights.keys() - set(self.label_names)))
            faults += [f"class_weights: {unknown}: not in label_names"] if unknown else []
        if self.label_names and len(set(self.label_names)) < len(self.label_names):
            faults.append("label_names: a name is listed twice; remove one")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def metric_names(self) -> tuple[str, ...]:
        return METRICS[self.problem]

    def loss_note(self) -> str | None:
        words = "mapping" if isinstance(self.class_weights, dict) else self.class_weights
        held = [f"task.class_weights ({words})"] if words != "none" else []
        held += [f"task.label_smoothing={self.label_smoothing:g}"] if self.label_smoothing else []
        if not held:
            return None
        return (
            f"the loss, on dev and test too, includes {' and '.join(held)}: compare it only with that of runs that "
            f"have the same; accuracy and F1 do not depend on it"
        )
