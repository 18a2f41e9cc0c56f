"""The subcommand that foresees what a run will need."""

import json as words
from pathlib import Path

from shardtune.errors import ConfigError
from shardtune.launcher.commands.command import Command, refuse_values, refuse_words, say_at_once

HELP = """\
  shardtune plan RECIPE [key=value …]       what run would do, and the memory, time and cost it will take
      --gpu=h100-sxm-80g --nodes=4          on other machines than this one; --gpus-per-node=8 --json
      --trace                               its memory beside that of the real step, traced without weights
"""
WITHOUT_GPU = "this machine has no GPU; --gpu=h100-sxm-80g shows memory and time on others"


def plan(
    recipe: str,
    *overrides: str,
    run_dir: str | None = None,
    gpu: str | None = None,
    gpus_per_node: str | None = None,
    nodes: str | None = None,
    network: str | None = None,
    hardware: str | None = None,
    params: str | None = None,
    layers: str | None = None,
    hidden: str | None = None,
    heads: str | None = None,
    kv_heads: str | None = None,
    vocabulary: str | None = None,
    rows: str | None = None,
    tokens: str | None = None,
    price_per_gpu_hour: str | None = None,
    trace: str = "False",
    json: str = "False",
) -> Command:
    """Prints what `shardtune run` would do with the same arguments, and how much memory and time it will take. Nothing
    is started, and no weights are read (docs/planner.md).

    Args:
        recipe: a recipe such as recipes/sentiment.yaml, or a run directory.
        overrides: keys of the recipe, such as optim.lr=2e-5 train.num_epochs=2 (docs/recipe.md).
        run_dir: the run directory (default: runs/RECIPE-HASH).
        gpu: the kind of GPU, such as h100-sxm-80g, a100-80g or rtx-4090 (default: this machine's).
        gpus_per_node: GPUs of a node (default: job.gpus_per_node; 8 with --gpu).
        nodes: number of nodes (default: job.nodes).
        network: network of a node in Gbit/s, in each direction (default: what is usual for the GPU).
        hardware: a YAML file with GPUs of your own, as in shardtune/planner/hardware.yaml.
        params: parameters of a model like Llama, such as 7B, instead of the recipe's; needs --layers.
        layers: its layers.
        hidden: its hidden size.
        heads: its attention heads.
        kv_heads: its heads of keys and values.
        vocabulary: its vocabulary.
        rows: training rows of an epoch (default: those of an earlier start of the run, or estimated from the files).
        tokens: tokens of these rows together (default: as for rows).
        price_per_gpu_hour: what a GPU costs for an hour.
        trace: check the memory: trace the model's real step, without weights and without a GPU.
        json: print the forecast as JSON.
    """
    refuse_values(json=json, trace=trace)
    refuse_words(layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, vocabulary=vocabulary)
    sizes = {
        "params": params,
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        "vocabulary": vocabulary,
    }

    def perform() -> int:
        from shardtune.launcher.plan.forecast import Machines, plan_forecast
        from shardtune.launcher.plan.job import plan_job
        from shardtune.launcher.start import execute

        machine = execute.find_machine()
        if trace == "True":
            given = [f"--gpu={name}" for name in (gpu or machine.gpu_name,) if name]
            given += ["--json"] if json == "True" else []
            return execute.run_module("shardtune.trainer.commands.trace", [recipe, *overrides, *given])
        folder = Path(run_dir) if run_dir else None
        machines = Machines(gpu, gpus_per_node, nodes, network, Path(hardware) if hardware else None)
        if gpu is None and json != "True":
            print(plan_job(Path(recipe), overrides, folder, machine).describe())
        if gpu is None and not machine.gpu_name:
            if json == "True":
                raise ConfigError(f"shardtune: plan: {WITHOUT_GPU}")
            say_at_once(WITHOUT_GPU)
            return 0
        found = plan_forecast(
            Path(recipe), overrides, folder, machine, machines, sizes, rows, tokens, price_per_gpu_hour
        )
        print(words.dumps(found.as_json(), indent=1) if json == "True" else found.describe())
        return 0

    return Command(perform)
