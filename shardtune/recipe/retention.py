"""The `retention` section of a recipe."""

from shardtune.section import Section


class RetentionConfig(Section):
    """What the model still knows of what it could do before, measured while it learns something else."""

    kl_to_base: bool = False
    """Measures on dev how far the model has moved from the pretrained one: the mean over the target tokens of
    KL(pretrained || model), in nats, as `kl_to_base` in the metrics of dev. For tasks whose targets are tokens:
    language_modeling, chat and translation. With LoRA each evaluation takes a second pass without the adapters;
    otherwise the pretrained model's last hidden states on dev and its last layer are written to data.cache_dir once
    (docs/forgetting.md)."""
