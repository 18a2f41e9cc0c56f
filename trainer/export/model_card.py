"""The model card of an exported model: README.md with the hub's metadata, and the curves of its training.

The text is in model_card.md.j2.
"""

import json
import math
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import huggingface_hub
import jinja2
from huggingface_hub.repocard import metadata_load

from shardtune.ds_config.resolve import sharding_name
from shardtune.recipe.schema import Recipe
from shardtune.recipe.yaml_lines import write_yaml
from shardtune.run_dir.files import FORKED_FROM, MODEL
from shardtune.run_dir.view.curves import picture
from shardtune.run_dir.view.event_lines import read_milestones
from shardtune.run_dir.view.history import read_history
from shardtune.trainer.checkpoint.manifest import Manifest

CURVES = "curves.svg"
PIPELINES = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForMaskedLM": "fill-mask",
}
"""The hub's pipeline tag by the end of a model class's name."""
MAX_SOURCES = 5
"""Sources of a split that the card names; of the others it has the number."""


def _rounding(recipe: Recipe, *, is_adapter: bool) -> str:
    """What a reader has to know of a base that was quantized in training; empty if it was not."""
    lora = recipe.model.lora
    if lora is None or lora.quantize_base == "none":
        return ""
    if is_adapter:
        return f" trained over its weights quantized to {lora.quantize_base} (load it in the same format),"
    return f" with adapters merged that were trained over its weights quantized to {lora.quantize_base},"


def render_curves(run_dir: Path, step: int) -> str:
    """The run's curves up to this step, as an SVG file; an empty string if there are none."""
    return picture(read_history(run_dir).until(step))


def render_card(
    run_dir: Path,
    manifest: Manifest,
    recipe: Recipe,
    model: Any,
    *,
    results: Mapping[str, Any] | None,
    has_curves: bool,
    is_adapter: bool = False,
    blend: str | None = None,
) -> str:
    """README.md. It names no folder of this machine; the card of adapters names their base model.

    `blend` says how these weights were blended with those of the base model; None if they were not.
    """
    start: Mapping[str, Any] = next(
        (event for event in reversed(read_milestones(run_dir)) if event["event"] == "start"), {}
    )
    counts = start.get("data", {})
    metrics = {"dev": manifest.dev_metrics or {}, "test": (results or {}).get("test", {})}
    architecture = type(model).__name__
    subject = _public_model(recipe)
    if is_adapter and recipe.model.lora is not None:
        subject = f"LoRA adapters (r = {recipe.model.lora.r}) for {subject},"
    subject += _rounding(recipe, is_adapter=is_adapter)
    return _template().render(
        metadata=_metadata(
            run_dir.name, recipe, architecture, metrics, library="peft" if is_adapter else "transformers"
        ),
        name=run_dir.name,
        subject=subject,
        task=recipe.task.kind.replace("_", " "),
        step=manifest.step,
        num_steps=start.get("num_steps"),
        base=_name_alone(recipe.model.path) if is_adapter else None,
        model_class=architecture,
        config_folder=MODEL,
        pipeline=_pipeline(architecture, recipe),
        metrics=[
            (split, metric, value) for split, values in metrics.items() for metric, value in _finite_numbers(values)
        ],
        loss_note=recipe.task.loss_note(),
        averages=_averages(recipe, results or {}),
        blend=blend,
        curves=CURVES if has_curves else None,
        data=[
            (split, _source_names(recipe, split), counts.get(split, {}))
            for split in ("train", "dev", "test")
            if getattr(recipe.data, split) is not None
        ],
        layout=manifest.layout,
        device=start.get("device", "an unknown device"),
        sharding=sharding_name(manifest.layout["zero_stage"]),
        state=manifest.state,
        fork=_fork(run_dir),
        recipe=_public_recipe(recipe),
        versions=manifest.versions,
        licence=licence_of(recipe),
    )


def _averages(recipe: Recipe, results: Mapping[str, Any]) -> list[str]:
    """A sentence for each average that the weights are."""
    sentences = []
    if (decay := recipe.train.ema_decay) is not None:
        sentences.append(f"The weights are an exponential moving average over the steps of training (decay {decay:g}).")
    average = results.get("average_last") or {}
    if average.get("is_best"):
        steps = ", ".join(f"{step:,}" for step in average["steps"])
        sentences.append(
            f"The weights are the mean of those after steps {steps}, which was better on dev than the best of them."
        )
    return sentences


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    environment.globals["thousands"] = "{:,}".format
    return environment.from_string((files(__package__) / "model_card.md.j2").read_text(encoding="utf-8"))


def licence_of(recipe: Recipe) -> str | None:
    """The licence in the base model's card; None if its folder or the hub's cache holds no card that names one."""
    path: Any = Path(recipe.model.path) / "README.md"
    if not Path(recipe.model.path).is_dir():
        path = huggingface_hub.try_to_load_from_cache(recipe.model.path, "README.md", revision=recipe.model.revision)
    if not isinstance(path, str | Path) or not Path(path).is_file():
        return None
    try:
        licence = (metadata_load(path) or {}).get("license")
    except ValueError:  # the card's head is not a YAML mapping
        return None
    return licence if isinstance(licence, str) else None


def _metadata(
    name: str, recipe: Recipe, architecture: str, metrics: Mapping[str, Mapping[str, Any]], *, library: str
) -> str:
    pipeline = _pipeline(architecture, recipe)
    results = [
        huggingface_hub.EvalResult(
            task_type=pipeline or "other",
            dataset_type="other",
            dataset_name=f"{_source_names(recipe, split)} ({split})",
            dataset_split=split,
            metric_type=metric,
            metric_value=value,
        )
        for split, values in metrics.items()
        for metric, value in _finite_numbers(values)
        if getattr(recipe.data, split) is not None
    ]
    paths = [source.path for source in recipe.data.sources("train")]
    data = huggingface_hub.ModelCardData(
        license=licence_of(recipe),
        base_model=None if Path(recipe.model.path).is_dir() else recipe.model.path,
        library_name=library,
        pipeline_tag=pipeline,
        datasets=[path.removeprefix("hf:") for path in paths if path.startswith("hf:")] or None,
        tags=["shardtune", "generated_from_trainer"],
        model_name=name if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _pipeline(architecture: str, recipe: Recipe) -> str | None:
    tag = next((tag for end, tag in PIPELINES.items() if architecture.endswith(end)), None)
    return tag or ("translation" if recipe.task.kind == "translation" else None)


def _finite_numbers(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        if isinstance(value, float) and math.isfinite(value):
            yield name, value


def _source_names(recipe: Recipe, split: str) -> str:
    if (share := recipe.data.share(split)) is not None:
        return f"{share.fraction:.3g} of the training rows"
    names = [source.name or _name_alone(source.path) for source in recipe.data.sources(split)]
    more = f" and {len(names) - MAX_SOURCES} more" if len(names) > MAX_SOURCES else ""
    return ", ".join(names[:MAX_SOURCES]) + more


def _fork(run_dir: Path) -> dict[str, Any] | None:
    """The name of the run that this one was forked from, and the recipe's changes; None if it was not forked."""
    if not (run_dir / FORKED_FROM).is_file():
        return None
    fork = json.loads((run_dir / FORKED_FROM).read_text(encoding="utf-8"))
    return {"name": Path(fork["run_dir"]).name, "changes": fork["changes"]}


def _public_model(recipe: Recipe) -> str:
    path = Path(recipe.model.path)
    return f"`{path.name}`" if path.is_dir() else f"[{recipe.model.path}](https://huggingface.co/{recipe.model.path})"


def _public_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML; of a local path only its last part."""

    def public(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: public(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [public(inner) for inner in value]
        return _name_alone(value) if isinstance(value, str) else value

    return write_yaml(public(recipe.model_dump(mode="json")))


def _name_alone(path: str) -> str:
    """The last part of a local path; other texts unchanged."""
    return Path(path).name if path.startswith(("/", "~")) else path
