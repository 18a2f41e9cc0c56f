"""What an exported model says of itself: README.md with the hub's metadata, and the curves of its training."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.repocard import metadata_load

from shardtune.ds_config.resolve import sharding_name
from shardtune.recipe.schema import Recipe
from shardtune.recipe.yaml_lines import write_yaml
from shardtune.run_dir.curves import picture
from shardtune.run_dir.files import FORKED_FROM, MODEL, read_events
from shardtune.trainer.checkpoint.manifest import Manifest

CURVES = "curves.svg"
PIPELINES = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForMaskedLM": "fill-mask",
}
"""The end of a model class's name -> the hub's name of what it does."""


def render_curves(run_dir: Path, step: int) -> str:
    """The run's curves up to this step, as an SVG file; an empty string if there are none."""
    return picture([event for event in read_events(run_dir) if event.get("step", 0) <= step])


def render_card(
    run_dir: Path,
    manifest: Manifest,
    recipe: Recipe,
    model: Any,
    *,
    results: Mapping[str, Any] | None,
    has_curves: bool,
    is_adapter: bool = False,
) -> str:
    """README.md; nothing in it names a folder of this machine. Of adapters it names the base that they go on."""
    start: Mapping[str, Any] = next(
        (event for event in reversed(read_events(run_dir)) if event["event"] == "start"), {}
    )
    metrics = {"dev": manifest.dev_metrics or {}, "test": (results or {}).get("test", {})}
    subject = _public_model(recipe)
    if is_adapter and recipe.model.lora is not None:
        subject = f"LoRA adapters (r = {recipe.model.lora.r}) for {subject},"
    sections = [
        f"# {run_dir.name}",
        f"{subject} fine-tuned for {recipe.task.kind.replace('_', ' ')}: step {manifest.step:,}"
        f"{_of_all(start)} of the recipe below.",
        *(_usage_of_adapters(run_dir.name, model, recipe) if is_adapter else _usage(run_dir.name, model, recipe)),
        *_metrics(metrics),
        *(["## Curves", f"![Loss, metrics, learning rate, speed]({CURVES})"] if has_curves else []),
        *_data(recipe, start),
        "## Training",
        _how(manifest, start),
        *_fork(run_dir),
        f"```yaml\n{_public_recipe(recipe)}```",
        "## Versions",
        _table(["package", "version"], [[name, number] for name, number in manifest.versions.items()]),
        "## Licence",
        _licence_text(recipe),
    ]
    head = _metadata(
        run_dir.name, recipe, type(model).__name__, metrics, library="peft" if is_adapter else "transformers"
    )
    return f"---\n{head}\n---\n\n" + "\n\n".join(sections) + "\n"


def licence_of(recipe: Recipe) -> str | None:
    """What the base model's card says, if there is one in its folder or in the hub's cache."""
    path: Any = Path(recipe.model.path) / "README.md"
    if not Path(recipe.model.path).is_dir():
        path = huggingface_hub.try_to_load_from_cache(recipe.model.path, "README.md", revision=recipe.model.revision)
    if not isinstance(path, str | Path) or not Path(path).is_file():
        return None
    try:
        said = (metadata_load(path) or {}).get("license")
    except ValueError:  # a card whose head is no YAML mapping says nothing
        return None
    return said if isinstance(said, str) else None


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
        for split, its in metrics.items()
        for metric, value in _numbers(its)
        if getattr(recipe.data, split) is not None
    ]
    on_the_hub = [its.path.removeprefix("hf:") for its in recipe.data.sources("train") if its.path.startswith("hf:")]
    data = huggingface_hub.ModelCardData(
        license=licence_of(recipe),
        base_model=None if Path(recipe.model.path).is_dir() else recipe.model.path,
        library_name=library,
        pipeline_tag=pipeline,
        datasets=on_the_hub or None,
        tags=["shardtune", "generated_from_trainer"],
        model_name=name if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _pipeline(architecture: str, recipe: Recipe) -> str | None:
    found = next((tag for end, tag in PIPELINES.items() if architecture.endswith(end)), None)
    return found or ("translation" if recipe.task.kind == "translation" else None)


def _usage_of_adapters(name: str, model: Any, recipe: Recipe) -> Iterator[str]:
    base = _name_alone(recipe.model.path)
    yield "## Use"
    yield (
        "The folder holds what was trained, and not the base model, which is found by the name in adapter_config.json. "
        "`shardtune export --merge-lora` makes a whole model of the two."
    )
    yield (
        f"```python\nfrom peft import PeftModel\nfrom transformers import AutoConfig, {type(model).__name__}\n\n"
        f'config = AutoConfig.from_pretrained("{name}/{MODEL}")\n'
        f'base = {type(model).__name__}.from_pretrained("{base}", config=config, ignore_mismatched_sizes=True)\n'
        f'model = PeftModel.from_pretrained(base, "{name}")\n```'
    )


def _usage(name: str, model: Any, recipe: Recipe) -> Iterator[str]:
    pipeline = _pipeline(type(model).__name__, recipe)
    if pipeline is not None:
        yield "## Use"
        yield f'```python\nfrom transformers import pipeline\n\nmodel = pipeline("{pipeline}", model="{name}")\n```'


def _metrics(metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    rows = [[split, metric, f"{value:.4f}"] for split, its in metrics.items() for metric, value in _numbers(its)]
    if rows:
        yield "## Metrics"
        yield _table(["split", "metric", "value"], rows)


def _numbers(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        if isinstance(value, float) and math.isfinite(value):
            yield name, value


def _data(recipe: Recipe, start: Mapping[str, Any]) -> Iterator[str]:
    yield "## Data"
    counts = start.get("data", {})
    rows = [
        [split, _source_names(recipe, split), *(f"{counts.get(split, {}).get(key, 0):,}" for key in ("rows", "tokens"))]
        for split in ("train", "dev", "test")
        if getattr(recipe.data, split) is not None
    ]
    yield _table(["split", "source", "rows", "tokens"], rows)


def _source_names(recipe: Recipe, split: str) -> str:
    if (share := recipe.data.share(split)) is not None:
        return f"{share.fraction:.3g} of the training rows"
    names = [its.name or _name_alone(its.path) for its in recipe.data.sources(split)]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _of_all(start: Mapping[str, Any]) -> str:
    return f" of {start['num_steps']:,}" if "num_steps" in start else ""


def _how(manifest: Manifest, start: Mapping[str, Any]) -> str:
    layout = manifest.layout
    seen = manifest.state
    return (
        f"{layout['world_size']} ranks on {start.get('device', 'an unknown device')}, "
        f"{sharding_name(layout['zero_stage'])}, {layout['precision']}; "
        f"{seen.samples_seen:,} samples and {seen.tokens_seen:,} tokens seen."
    )


def _fork(run_dir: Path) -> Iterator[str]:
    if (run_dir / FORKED_FROM).is_file():
        its = json.loads((run_dir / FORKED_FROM).read_text(encoding="utf-8"))
        yield f"It began from a checkpoint of `{Path(its['run_dir']).name}`, whose recipe differs: " + "; ".join(
            f"`{change}`" for change in its["changes"]
        )


def _public_model(recipe: Recipe) -> str:
    path = Path(recipe.model.path)
    return f"`{path.name}`" if path.is_dir() else f"[{recipe.model.path}](https://huggingface.co/{recipe.model.path})"


def _public_recipe(recipe: Recipe) -> str:
    """The resolved recipe; of local paths only the names."""

    def public(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: public(its) for key, its in value.items()}
        if isinstance(value, list):
            return [public(its) for its in value]
        return _name_alone(value) if isinstance(value, str) else value

    return write_yaml(public(recipe.model_dump(mode="json")))


def _name_alone(path: str) -> str:
    """The last part of a local path; other texts as they are."""
    return Path(path).name if path.startswith(("/", "~")) else path


def _licence_text(recipe: Recipe) -> str:
    licence = licence_of(recipe)
    if licence is None:
        return "The base model does not say; its terms hold for this one too."
    return f"The base model is under `{licence}`, which may bind this one too."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
