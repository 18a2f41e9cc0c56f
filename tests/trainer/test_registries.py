"""What a recipe may name is what there is."""

from typing import Any, get_args

import pytest

from shardtune.launcher.plan.backends import BACKENDS
from shardtune.recipe.sections.engine import EngineConfig
from shardtune.recipe.sections.job import JobConfig
from shardtune.recipe.sections.optim import OptimConfig
from shardtune.trainer.engine.optimizers import OPTIMIZERS
from shardtune.trainer.engine.schedule import SCHEDULES
from shardtune.trainer.model.load import DTYPES


@pytest.mark.parametrize(
    ("section", "key", "registry"),
    [(OptimConfig, "kind", OPTIMIZERS), (OptimConfig, "schedule", SCHEDULES), (JobConfig, "backend", BACKENDS)],
)
def test_every_name_that_is_legal_has_its_implementation(section: Any, key: str, registry: dict[str, Any]) -> None:
    assert set(get_args(section.model_fields[key].annotation)) == set(registry)


def test_every_precision_has_its_dtype() -> None:
    assert set(get_args(EngineConfig.model_fields["precision"].annotation)) == {"auto", *DTYPES}
