"""The subcommand that foresees what a run will need."""

import json as words
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardtune.errors import ConfigError
from shardtune.launcher.commands.command import Command, refuse_values, refuse_words, say_at_once

if TYPE_CHECKING:
    from shardtune.launcher.plan.forecast import Inquiry
    from shardtune.launcher.plan.job import Machine
    from shardtune.planner.advice.search import Question
    from shardtune.planner.forecast.forecast import Forecast
    from shardtune.run_dir.view.predicted import Compared

HELP = """\
  shardtune plan RECIPE [key=value …]       what run would do, and the memory, time and cost it will take
      --gpu=h100-sxm-80g --nodes=4          on other machines than this one; --gpus-per-node=8 --json
      --auto                                the fastest settings that fit, and other machines; --page=plan.html
      --table --gpus=a100-80g,h100          a table of machines; --nodes=1,2,4,8, with --auto the best of each
      --node-mtbf-hours=1000 --simulate     with failures of machines, restarts and queues
  shardtune plan RUN_DIR                    also what was predicted of the run, beside the real numbers
      --trace                               its memory beside that of the real step, traced without weights
  shardtune plan --calibrate                measures this machine, for later plans on it
"""
WITHOUT_GPU = "this machine has no GPU; --gpu=h100-sxm-80g shows memory and time on others"


def plan(
    recipe: str | None = None,
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
    auto: str = "False",
    table: str = "False",
    gpus: str | None = None,
    page: str | None = None,
    node_mtbf_hours: str | None = None,
    queue_hours: str | None = None,
    simulate: str = "False",
    trace: str = "False",
    calibrate: str = "False",
    ranks: str | None = None,
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
        nodes: number of nodes (default: job.nodes); with --table several, such as 1,2,4,8.
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
        auto: search for the fastest settings that fit with the same global batch, and for other machines.
        table: print a table of machines to choose from instead, for the recipe as it is, or with --auto the best.
        gpus: for --table, kinds of GPUs with commas between them, such as a100-80g,h100.
        page: with --auto, also write all of it as a page to this file.
        node_mtbf_hours: mean time between failures of a node (default: the published ones of two clusters).
        queue_hours: mean wait in the queue of a job that is requeued (default: none).
        simulate: also simulate failures, restarts and queues, event by event.
        trace: check the memory: trace the model's real step, without weights and without a GPU.
        calibrate: measure this machine for later plans on it; needs no recipe.
        ranks: with --calibrate, the numbers of ranks to measure, such as 1,2 (default: 1, and as many as runs have).
        json: print the forecast as JSON.
    """
    refuse_values(json=json, auto=auto, table=table, simulate=simulate, trace=trace, calibrate=calibrate)
    if calibrate == "True":
        return _calibrate(recipe, overrides, ranks, is_json=json == "True")
    if recipe is None:
        raise ConfigError("shardtune: plan: which recipe? Give its path, or --calibrate")
    if ranks is not None:
        raise ConfigError("shardtune: plan: --ranks are those that --calibrate measures; set job.ranks for a plan")
    path = recipe
    refuse_words(layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, vocabulary=vocabulary)
    sizes = {
        "params": params,
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        "vocabulary": vocabulary,
    }

    failures = _Failures(node_mtbf_hours, queue_hours, simulate == "True")
    wanted = _Wanted(auto == "True", table == "True", json == "True", gpus, page, failures)
    _refuse_contradictions(wanted, nodes)

    def perform() -> int:
        from shardtune.launcher.plan.forecast import Inquiry, Machines

        if trace == "True":
            return _trace([path, *overrides], gpu, is_json=json == "True")
        machines = Machines(gpu, gpus_per_node, nodes, network, Path(hardware) if hardware else None)
        folder = Path(run_dir) if run_dir else None
        return _perform(
            Inquiry(Path(path), overrides, folder, machines, sizes, rows, tokens, price_per_gpu_hour), wanted
        )

    return Command(perform)


@dataclass(frozen=True)
class _Failures:
    """What is known of failures, as typed."""

    node_mtbf_hours: str | None
    queue_hours: str | None
    simulates: bool

    @property
    def is_asked_for(self) -> bool:
        return self.simulates or self.node_mtbf_hours is not None or self.queue_hours is not None


@dataclass(frozen=True)
class _Wanted:
    """What is to be found out, and how it is shown."""

    auto: bool
    table: bool
    json: bool
    gpus: str | None
    page: str | None
    failures: _Failures


def _calibrate(recipe: str | None, overrides: tuple[str, ...], ranks: str | None, *, is_json: bool) -> Command:
    """Measures this machine. Raises ConfigError if a recipe is given, or an override that is none of job.device."""
    words = [*([] if recipe is None else [recipe]), *overrides]
    devices = [word.removeprefix("job.device=") for word in words if word in ("job.device=cpu", "job.device=cuda")]
    if len(devices) < len(words):
        raise ConfigError("shardtune: plan: --calibrate measures the machine, whatever the recipe; remove the recipe")

    def perform() -> int:
        from shardtune.launcher.start.calibrate import calibrate

        return calibrate(ranks, devices[-1] if devices else None, is_json=is_json)

    return Command(perform)


def _trace(words_of_recipe: list[str], gpu: str | None, *, is_json: bool) -> int:
    """Traces a step in a process of its own; returns its exit code."""
    from shardtune.launcher.start import execute

    name = gpu or execute.find_machine().gpu_name
    flags = [*([f"--gpu={name}"] if name else []), *(["--json"] if is_json else [])]
    return execute.run_module("shardtune.trainer.commands.planning.trace", [*words_of_recipe, *flags])


def _refuse_contradictions(wanted: _Wanted, nodes: str | None) -> None:
    """Raises ConfigError for flags that belong to others which are missing."""
    if wanted.gpus is not None and not wanted.table:
        raise ConfigError("shardtune: --gpus takes several kinds of GPUs for --table; for one machine write --gpu=…")
    if nodes is not None and "," in nodes and not wanted.table:
        raise ConfigError(f"shardtune: --nodes takes a number above 0, got {nodes!r}; with --table several")
    if wanted.failures.is_asked_for and (wanted.table or wanted.auto):
        raise ConfigError("shardtune: failures are planned for the recipe as it is; remove --auto and --table")
    if wanted.page is not None and (wanted.table or not wanted.auto):
        raise ConfigError("shardtune: --page shows what --auto finds; write --auto, and no --table")


def _perform(inquiry: "Inquiry", wanted: _Wanted) -> int:
    """Finds out what is wanted and prints it; returns the exit code. Raises ConfigError and CheckpointError."""
    from shardtune.launcher.plan.job import plan_job
    from shardtune.launcher.start import execute
    from shardtune.run_dir.view.predicted import render_compared

    compared = _compared(inquiry)
    if compared and not wanted.json:
        print(render_compared(compared))
    machine = execute.find_machine()
    is_here = inquiry.machines.gpu is None and wanted.gpus is None
    is_forecast_only = not (wanted.auto or wanted.table or wanted.json)
    if is_here and is_forecast_only:
        print(plan_job(inquiry.path, inquiry.overrides, inquiry.run_dir, machine).describe())
    if is_here and not machine.gpu_name:
        shown, reason = (None, WITHOUT_GPU)
        if not (wanted.auto or wanted.table):
            shown, reason = _of_this_cpu(inquiry, wanted, machine, compared)
        if shown is not None:
            print(shown)
        elif not is_forecast_only:
            raise ConfigError(f"shardtune: plan: {reason}")
        else:
            say_at_once(reason)
        return 0
    print(_shown(*_found(inquiry, wanted, machine), wanted, compared))
    return 0


def _shown(text: str, facts: Any, wanted: _Wanted, compared: "list[Compared]") -> str:
    """What was found out, in the form that is wanted."""
    if compared and isinstance(facts, dict):
        facts["predicted_and_real"] = {each.name: {"predicted": each.predicted, "real": each.real} for each in compared}
    return words.dumps(facts, indent=1) if wanted.json else text


def _of_this_cpu(
    inquiry: "Inquiry", wanted: _Wanted, machine: "Machine", compared: "list[Compared]"
) -> tuple[str | None, str]:
    """The forecast of this machine's CPU ranks; None if their time is not planned, and then why."""
    from shardtune.launcher.plan.forecast import cpu_forecast

    question = inquiry.question(machine)
    found, notice = cpu_forecast(question, machine)
    if found.forecast is None:
        return None, "; ".join(filter(None, (WITHOUT_GPU, found.why_not, notice)))
    if notice is not None:
        say_at_once(notice)
    return _shown(*_with_failures(found.forecast, question, wanted), wanted, compared), ""


def _compared(inquiry: "Inquiry") -> "list[Compared]":
    """What was predicted of the run so far, and what became of it; empty without a prediction."""
    from shardtune.run_dir.files import read_events
    from shardtune.run_dir.view.plan_file import read_plan
    from shardtune.run_dir.view.predicted import compare

    run_dir = inquiry.run_dir or inquiry.path
    return compare(read_plan(run_dir), read_events(run_dir))


def _found(inquiry: "Inquiry", wanted: _Wanted, machine: "Machine") -> tuple[str, Any]:
    """What is wanted, as text and for programs; the page is written."""
    from shardtune.launcher.plan.advice import plan_advice, plan_matrix
    from shardtune.launcher.plan.forecast import plan_forecast
    from shardtune.planner.advice.matrix import describe

    if wanted.table:
        cells = plan_matrix(inquiry, machine, wanted.gpus, is_searched=wanted.auto)
        return describe(cells, has_price=inquiry.price is not None), [cell.as_json() for cell in cells]
    if not wanted.auto:
        question = inquiry.question(machine)
        return _with_failures(plan_forecast(question, inquiry.machines, machine), question, wanted)
    advice = plan_advice(inquiry, machine)
    if wanted.page is not None:
        from shardtune.launcher.report.plan_page import render_plan
        from shardtune.run_dir.files import write_atomically

        write_atomically(Path(wanted.page), render_plan(inquiry.path.name, advice))
        say_at_once(f"page: {wanted.page}")
    return advice.describe(), advice.as_json()


def _with_failures(found: "Forecast", question: "Question", wanted: _Wanted) -> tuple[str, dict[str, Any]]:
    """A forecast and what failures do to the run, as text and for programs."""
    from shardtune.launcher.plan.endurance import failures_of

    asked = wanted.failures
    failures = failures_of(found, question.recipe, asked.node_mtbf_hours, asked.queue_hours, simulates=asked.simulates)
    shown = failures.describe() if asked.is_asked_for or failures.are_likely else ""
    text = "\n".join(filter(None, (found.describe(), shown)))
    return text, found.as_json() | {"failures": failures.as_json()}
