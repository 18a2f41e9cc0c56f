"""From what the divergence from the pretrained model is measured in the evaluations of a run."""

import hashlib
import json
from collections.abc import Mapping

from shardtune.home import expand_home
from shardtune.recipe.schema import Recipe
from shardtune.trainer.checkpoint.base_model import identify_together
from shardtune.trainer.data.prepare.prepare import Prepared
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.evaluation.base_answers import FORMAT, Asked, BaseAnswers, stored, stored_bytes
from shardtune.trainer.model.load import DTYPES
from shardtune.trainer.model.target_loss import plain_layer
from shardtune.trainer.reporting.reporter import Reporter
from shardtune.trainer.setup.load_engine import Loaded
from shardtune.trainer.setup.precision import expected_precision


def base_answers(
    recipe: Recipe, prepared: Prepared, loaded: Loaded, *, ranks: Ranks, reporter: Reporter
) -> Mapping[str, BaseAnswers]:
    """Collective: what the pretrained model makes of dev, if retention.kl_to_base is set, by the name of the split.

    The model must not have learned anything yet. Raises DataError if the disk has no room.
    """
    dev = prepared.split("dev")
    if not recipe.retention.kl_to_base or dev is None:
        return {}
    if loaded.reference is not None:
        return {"dev": Asked(loaded.reference)}
    folder = expand_home(recipe.data.cache_dir) / "base_states" / _key(recipe, prepared, loaded, ranks)
    layer = plain_layer(loaded.model.get_output_embeddings())
    states, weights = stored_bytes(
        float(dev.num_targets.sum()), (layer.out_features, layer.in_features), layer.weight.itemsize
    )
    reporter.report("phase", name="asking the pretrained model about dev")
    answers = stored(loaded.engine, loaded.model, dev, loaded.batch_maker, folder)
    text = (
        f"retention.kl_to_base: {folder} has the pretrained model's hidden states at the targets of dev "
        f"({states / 1e6:,.1f} MB) and its last layer ({weights / 1e6:,.1f} MB, on each device during an evaluation)"
    )
    reporter.report("notice", text=text)
    return {"dev": answers}


def describe_costs(recipe: Recipe, *, num_parameters: int, layer: tuple[int, int], num_targets: float) -> list[str]:
    """What the comparison with the pretrained model takes, a line for each key of the recipe that asks for it.

    `layer` is the shape (vocabulary, hidden size) of the last layer, num_targets is dev's.
    """
    width = DTYPES[expected_precision(recipe)].itemsize
    lora, texts = recipe.model.lora, []
    has_base = lora is not None and not lora.train_whole
    if recipe.retention.kl_to_base and (has_base or recipe.regularize.kl_to_base):
        texts.append("retention.kl_to_base: each batch of dev takes a second pass, of the pretrained model")
    elif recipe.retention.kl_to_base:
        states, weights = stored_bytes(num_targets, layer, width)
        texts.append(
            f"retention.kl_to_base: the pretrained model's hidden states at the targets of dev ({states / 1e6:,.1f} "
            f"MB) and its last layer ({weights / 1e6:,.1f} MB) are written to data.cache_dir, once"
        )
    if recipe.regularize.kl_to_base and has_base:
        texts.append("regularize.kl_to_base: each micro-batch takes a second forward pass, without the adapters")
    elif recipe.regularize.kl_to_base:
        texts.append(
            f"regularize.kl_to_base: each rank holds a frozen copy of the pretrained model "
            f"({num_parameters * width / 1e6:,.1f} MB), and each micro-batch takes a forward pass of it"
        )
    return texts


def _key(recipe: Recipe, prepared: Prepared, loaded: Loaded, ranks: Ranks) -> str:
    """Collective: a digest of all that these states depend on."""
    lora = recipe.model.lora
    parts = [
        FORMAT,
        prepared.folder.name,
        identify_together(recipe, ranks)["files"],
        recipe.engine.precision,
        "none" if lora is None else lora.quantize_base,
        plain_layer(loaded.model.get_output_embeddings()).out_features,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
