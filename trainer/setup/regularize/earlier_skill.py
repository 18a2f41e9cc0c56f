"""The recipe by which the pretrained model is asked what it can do already: that of regularize.ewc's rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shardtune.ds_config.resolve import ds_config_of, zero_stage
from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.recipe.sections.regularize import EwcConfig, RegularizeConfig

FISHER, INDEX = "fisher", "index.json"
"""The folder of the Fisher information in a run directory, and the file in it that is written last."""
OF_LABELS = ("label_names", "types", "tag_names", "class_weights", "label_smoothing")
"""Keys of a task that are about its own labels, or put more into the loss than the likelihood."""


def earlier_recipe(recipe: Recipe, ewc: EwcConfig) -> Recipe:
    """A recipe that trains the pretrained model on the earlier rows: with its own head, all of its weights, and no
    dropout; in parts only if the recipe does so."""
    task, columns = ewc.options, ewc.columns
    if columns is None:
        own = recipe.data.columns
        columns = own if task is None else {name: column for name, column in own.items() if name == "text"}
    if task is None:
        fields = {name: field for name, field in type(recipe.task).model_fields.items() if name in OF_LABELS}
        task = recipe.task.model_copy(update={name: field.get_default() for name, field in fields.items()})
    model = {"freeze": (), "dropout": 0.0, "layerdrop": 0.0, "head": "keep" if task.has_labels else "auto"}
    rows = {"train": ewc.data, "dev": None, "test": None, "columns": columns, "packing": "off"}
    data = {**rows, "streaming": False, "deduplicate": "none"}
    return recipe.model_copy(
        update={
            "task": task,
            "model": recipe.model.model_copy(update=model),
            "data": recipe.data.model_copy(update=data),
            "optim": recipe.optim.model_copy(update={"max_grad_norm": 0.0, "layer_decay": 1.0}),
            "regularize": RegularizeConfig(),
            "engine": recipe.engine.model_copy(update=_engine(recipe)),
        }
    )


@contextmanager
def naming_its_key() -> Iterator[None]:
    """Makes a DataError about the earlier rows, or their head, say whose they are, in each line."""
    try:
        yield
    except DataError as error:
        raise DataError("\n".join(f"regularize.ewc: {line}" for line in str(error).splitlines())) from error


def is_computed(run_dir: Path) -> bool:
    """Whether the run directory has the Fisher information already."""
    return (run_dir / FISHER / INDEX).is_file()


def _engine(recipe: Recipe) -> dict[str, Any]:
    """Keys of the engine: weights in parts as the recipe has them, and no compression, scale or compiler."""
    ds_config = ds_config_of(recipe, hidden_size=None)
    strategy = None
    if ds_config is not None and zero_stage(ds_config) == 3:
        offload = ds_config["zero_optimization"].get("offload_param") or {}
        strategy = "zero3_offload" if offload.get("device") == "cpu" else "zero3"
    precision = "fp32" if recipe.engine.precision == "fp16" else recipe.engine.precision
    return {"deepspeed": strategy, "precision": precision, "communication_data_type": "auto", "compile": "off"}
