"""The subcommands for runs on a Slurm cluster, and for runs in the background."""

import shlex
from pathlib import Path

from shardtune.errors import ConfigError
from shardtune.launcher.commands.command import Command, refuse_values, refuse_with_several, refuse_words, say_at_once
from shardtune.shell_line import shell_line

HELP = """\
  shardtune submit RECIPE [key=value …]     train as a Slurm job; the same command again resumes
      --dry-run                             only print the job script
      --wait                                follow the run until it ends
      --prepare                             tokenize the data in a CPU job first
      --depends=afterok:JOB                 wait for another job
  shardtune status [RUN_DIR]                show the status of all known runs, or of one (--json)
  shardtune watch [RUN_DIR …]               follow runs in the terminal: list, charts, ranks, faults, time, logs
      --plain                               as lines, until they end; so it is, too, where there is no terminal
  shardtune logs RUN_DIR                    print the output of a run; --rank=N: of a rank; -f: follow it
  shardtune stop RUN_DIR                    stop a run after a checkpoint; --now: without one
  shardtune doctor --nodes=N [job.key=value …]  check nodes: versions, speed, links, clocks, shared file system
  shardtune requeue RUN_DIR                 save a checkpoint and requeue; resubmits a job that has ended
"""


def submit(
    recipe: str,
    *overrides: str,
    run_dir: str | None = None,
    depends: str | None = None,
    gpu: str | None = None,
    fractions: str | None = None,
    prepare: str = "False",
    wait: str = "False",
    trust: str = "False",
    dry_run: str = "False",
) -> Command:
    """Trains a recipe on a Slurm cluster, or resumes a run there. With train.seeds, a job array trains each seed.

    Args:
        recipe: a recipe such as recipes/sentiment.yaml, or a run directory.
        overrides: keys of the recipe, such as job.nodes=2 job.time_limit=8:00:00 optim.lr=2e-5 (docs/recipe.md).
        run_dir: the run directory (default: runs/RECIPE-HASH).
        depends: what the job waits for, in sbatch's syntax, such as afterok:1234.
        gpu: the kind of GPU of the nodes, such as h100-sxm-80g, for the plan (default: as Slurm's gres says).
        fractions: train once on each of these fractions of the training rows, such as 0.1,0.3,1.0, and say whether more
            rows would help.
        prepare: first submit a CPU job that tokenizes the data; the training waits for it.
        wait: follow the run until it ends; the exit code is then the run's.
        trust: accept the programs and options that the run directory names, also if they are another user's words.
        dry_run: only print the job script.
    """
    refuse_values(prepare=prepare, wait=wait, trust=trust, dry_run=dry_run)

    def perform() -> int:
        import time

        from shardtune.errors import LaunchError
        from shardtune.launcher.plan.several import plan_several
        from shardtune.launcher.runs import monitor, sweep_queue
        from shardtune.launcher.slurm import cluster
        from shardtune.launcher.slurm.outlook import outlook_of_submission, written_late
        from shardtune.launcher.slurm.submission import plan_preparation, plan_submission
        from shardtune.launcher.start.announce import announce
        from shardtune.run_dir.files import already_finished, is_finished
        from shardtune.run_dir.trust import settle_trust

        nodes = cluster.find_nodes()
        if nodes is None and dry_run != "True":
            raise LaunchError(cluster.NO_SLURM)
        folder = Path(run_dir) if run_dir else None
        several = plan_several(Path(recipe), overrides, folder, fractions)
        if several is not None:
            refuse_with_several(depends=depends is not None, gpu=gpu is not None, prepare=prepare == "True")
            if dry_run == "True":
                print(several.describe())
                return 0
            for point in several.points:
                settle_trust(several.run_of(point), overrides, is_trusted=trust == "True")
            return sweep_queue.submit_or_wait(several, print, parallel=None, waits=wait == "True")
        training = plan_submission(Path(recipe), overrides, folder, nodes, depends=depends)
        preparation = plan_preparation(training) if prepare == "True" else None
        if dry_run == "True":
            print("\n".join(job.describe() for job in (preparation, training) if job is not None))
            return 0
        if is_finished(training.run_dir):
            print(already_finished(training.run_dir))
            return 0
        cluster.refuse_queued(training.run_dir)
        settle_trust(training.run, overrides, is_trusted=trust == "True")
        outlook = outlook_of_submission(training, nodes, gpu, now=time.time())
        for line in outlook.lines:
            say_at_once(line)
        begins = cluster.try_submission(training)
        if preparation is not None:
            cluster.try_submission(preparation)
        with cluster.submitting(training.run_dir):
            cluster.refuse_queued(training.run_dir)  # another command may have submitted one meanwhile
            if preparation is not None:
                first = cluster.submit_preparation(preparation)
                print(f"job {first} tokenizes the data; its output: {preparation.run_dir / 'logs'}/prepare-{first}.out")
                training = plan_submission(Path(recipe), overrides, folder, nodes, depends=f"afterok:{first}")
                settle_trust(training.run, overrides, is_trusted=trust == "True")
                begins = None
            number = cluster.submit(training)
        announce(written_late(outlook), training.run_dir, say_at_once)
        print(
            f"job {number}{f' is expected to start at {begins}' if begins else ''}; run directory: {training.run_dir}"
        )
        print(shell_line("watch", training.run_dir))
        return monitor.watch(training.run_dir) if wait == "True" else 0

    return Command(perform)


def status(run_dir: str | None = None, json: str = "False") -> Command:
    """Shows the status of runs: state in Slurm, step, time left, loss.

    Args:
        run_dir: a run directory, or a sweep directory (default: all runs in runs/, those started on this machine, and
            those of your jobs in the queue).
        json: print everything that is known as JSON.
    """
    refuse_values(json=json)

    def perform() -> int:
        import json as words

        from shardtune.launcher.plan.sweep import SWEEP
        from shardtune.launcher.runs import monitor
        from shardtune.launcher.runs.status import as_json, render_run, render_table
        from shardtune.run_dir.view.history import read_history
        from shardtune.run_dir.view.time_use import time_use

        is_sweep = run_dir is not None and (Path(run_dir) / SWEEP).is_file()
        if run_dir is None:
            runs = monitor.known_runs()
        else:
            runs = monitor.look_at_sweep(Path(run_dir)) if is_sweep else [monitor.look_at(Path(run_dir))]
        use = None if run_dir is None or is_sweep else time_use(read_history(Path(run_dir)).events)
        if json == "True":
            print(words.dumps([as_json(run, use) for run in runs], indent=1, ensure_ascii=False))
        elif is_sweep:
            print(f"{render_table(runs)}\nmetrics and curves: shardtune report {shlex.quote(str(run_dir))}")
        elif run_dir is not None:
            print(render_run(runs[0], use))
        else:
            print(
                render_table(runs)
                if runs
                else "no runs in runs/, no runs started on this machine, and no jobs of yours in the queue"
            )
        return 0

    return Command(perform)


def watch(*run_dirs: str, plain: str = "False", no_color: str = "False") -> Command:
    """Follows runs. In a terminal, opens a list of them with charts, ranks, faults, time use and logs (q quits, ? shows
    the keys); elsewhere prints their progress as lines until all have ended, across stops and restarts. The exit code
    is that of the runs given: 0 finished, 75 stopped, 1 failed, 130 left while one was going on. For files that W&B has
    written offline there is also `wandb leet RUN_DIR/wandb`.

    Args:
        run_dirs: run directories, or sweep directories (default: in a terminal all known runs, those going on first;
            elsewhere those going on).
        plain: only lines, also in a terminal.
        no_color: no colours in the terminal, as with NO_COLOR.
    """
    refuse_values(plain=plain, no_color=no_color)

    def perform() -> int:
        from shardtune.launcher.runs import monitor, watched

        given = watched.given_run_dirs([Path(run_dir) for run_dir in run_dirs])
        is_full = plain != "True" and watched.is_full_terminal()
        if is_full and (given or watched.has_known_runs()):
            return watched.open_terminal(given, no_color=no_color == "True")
        followed = given or ([] if is_full else watched.going_on())
        if not followed:
            print(watched.NO_RUNS if is_full else watched.NONE_GOING_ON)
            return 0
        return monitor.watch(*followed, is_plain=plain == "True" or watched.is_dumb_terminal())

    return Command(perform)


def logs(run_dir: str, rank: str | None = None, follow: str = "False") -> Command:
    """Prints the output of a run.

    Args:
        run_dir: a run directory.
        rank: print the log of this rank instead.
        follow: (-f) keep printing until the run ends.
    """
    refuse_values(follow=follow)
    refuse_words(rank=rank)

    def perform() -> int:
        from shardtune.launcher.runs.logs import print_log

        print_log(Path(run_dir), rank, follow=follow == "True")
        return 0

    return Command(perform)


def stop(run_dir: str, now: str = "False") -> Command:
    """Asks a run to save a checkpoint and stop; its job is not requeued.

    Args:
        run_dir: a run directory.
        now: end it at once, without a checkpoint.
    """
    refuse_values(now=now)

    def perform() -> int:
        from shardtune.launcher.runs import monitor

        print(monitor.stop(Path(run_dir), now=now == "True"))
        return 0

    return Command(perform)


def requeue(run_dir: str, trust: str = "False") -> Command:
    """Asks a running job to save a checkpoint and requeue itself; submits a job that has ended again, as its recipe
    says.

    Args:
        run_dir: a run directory.
        trust: accept the programs and options that the run directory names, also if they are another user's words.
    """
    refuse_values(trust=trust)

    def perform() -> int:
        from shardtune.launcher.runs import monitor

        print(monitor.requeue(Path(run_dir), is_trusted=trust == "True"))
        return 0

    return Command(perform)


def doctor(*overrides: str, nodes: str | None = None) -> Command:
    """Checks machines as training does at its start: versions, clocks, the shared file system, the state of the GPUs in
    nvidia-smi, matrix multiplication speed, and bandwidth between ranks. Exit code 2 if a machine is unfit.

    Args:
        overrides: job keys with values, such as job.partition=gpu.
        nodes: how many nodes of the cluster to check (default: this machine).
    """
    if nodes is not None and not (nodes.isdecimal() and int(nodes)):
        raise ConfigError(f"shardtune: --nodes takes a number above 0, got {nodes!r}")

    def perform() -> int:
        from shardtune.launcher.runs import checkup

        say_at_once(f"checking {nodes or 'this machine'}{' nodes' if nodes else ''}")
        words = [*overrides, f"job.nodes={nodes}"] if nodes else list(overrides)
        return checkup.check_nodes(words, print) if nodes else checkup.check_here(words)

    return Command(perform)
