"""The words of the command line for runs on a cluster, and for those that go on without one watching."""

from pathlib import Path

from shardtune.launcher.commands.command import Command, refuse_values, refuse_words

HELP = """\
  shardtune submit RECIPE [key=value …]     a Slurm job from the recipe's job keys; goes on where the run stood
      --dry-run                             only show the job script
      --wait                                watch it until the run ends
      --prepare                             let a job on CPUs tokenize the data first
      --depends=afterok:JOB                 let it wait for another job
  shardtune status [RUN_DIR]                where all known runs stand, or one of them (--json)
  shardtune watch RUN_DIR                   its progress until it ends, through stops and restarts
  shardtune logs RUN_DIR                    what it prints; --rank=N: what a rank does; -f: and goes on printing
  shardtune stop RUN_DIR                    save a checkpoint and stop; --now: without one
  shardtune doctor --nodes=N [job.key=value …]  checks nodes: versions, speed, links, clocks, the common file system
  shardtune requeue RUN_DIR                 save a checkpoint and go back into the queue; or into it again
"""


def submit(
    recipe: str,
    *overrides: str,
    run_dir: str | None = None,
    depends: str | None = None,
    prepare: str = "False",
    wait: str = "False",
    dry_run: str = "False",
) -> Command:
    """Trains a recipe on a Slurm cluster, or goes on with a run directory there.

    Args:
        recipe: a recipe such as recipes/sentiment.yaml, or the directory of a run.
        overrides: keys of the recipe, such as job.nodes=2 job.time_limit=8:00:00 optim.lr=2e-5 (docs/recipe.md).
        run_dir: where everything of the run goes; runs/RECIPE-HASH if not given.
        depends: what the job waits for, in sbatch's words, such as afterok:1234.
        prepare: hands in a job on CPUs that tokenizes the data, and that this one waits for.
        wait: watches the run until it ends; the exit code is then the run's.
        dry_run: only shows the job script.
    """
    refuse_values(prepare=prepare, wait=wait, dry_run=dry_run)

    def perform() -> int:
        from shardtune.errors import LaunchError
        from shardtune.launcher.runs import monitor
        from shardtune.launcher.slurm import cluster
        from shardtune.launcher.slurm.submission import plan_preparation, plan_submission
        from shardtune.run_dir.files import RESULTS, already_finished

        nodes = cluster.find_nodes()
        if nodes is None and dry_run != "True":
            raise LaunchError(cluster.NO_SLURM)
        folder = Path(run_dir) if run_dir else None
        its = plan_submission(Path(recipe), overrides, folder, nodes, depends=depends)
        before = plan_preparation(its) if prepare == "True" else None
        if dry_run == "True":
            print("\n".join(job.describe() for job in (before, its) if job is not None))
            return 0
        if (its.run_dir / RESULTS).exists():
            print(already_finished(its.run_dir))
            return 0
        if (job := cluster.job_of(its.run_dir, cluster.queued_jobs())) is not None:
            raise LaunchError(
                f"job {job.name} is in the queue for {its.run_dir} already ({job.state}); "
                f"shardtune stop {its.run_dir} takes it out"
            )
        begins = cluster.try_submission(its)
        if before is not None:
            cluster.try_submission(before)
            first = cluster.submit_preparation(before)
            print(f"job {first} tokenizes the data, in {before.run_dir / 'logs'}/prepare-{first}.out")
            its = plan_submission(Path(recipe), overrides, folder, nodes, depends=f"afterok:{first}")
            begins = None
        number = cluster.submit(its)
        print(f"job {number}{f' is to begin at {begins}' if begins else ''}; everything goes to {its.run_dir}")
        print(f"shardtune watch {its.run_dir}")
        return monitor.watch(its.run_dir) if wait == "True" else 0

    return Command(perform)


def status(run_dir: str | None = None, json: str = "False") -> Command:
    """Shows where runs stand: what Slurm says, step, time left, loss.

    Args:
        run_dir: the directory of a run; those in runs/, those started on this machine and those of the jobs in the
            queue if not given.
        json: prints all that is known as JSON.
    """
    refuse_values(json=json)

    def perform() -> int:
        import json as words

        from shardtune.launcher.runs import monitor
        from shardtune.launcher.runs.status import as_json, render_run, render_table

        runs = monitor.known_runs() if run_dir is None else [monitor.look_at(Path(run_dir))]
        if json == "True":
            print(words.dumps([as_json(its) for its in runs], indent=1, ensure_ascii=False))
        elif run_dir is not None:
            print(render_run(runs[0]))
        else:
            print(
                render_table(runs)
                if runs
                else "no runs in runs/, none that was started on this machine, and no jobs of yours in the queue"
            )
        return 0

    return Command(perform)


def watch(run_dir: str) -> Command:
    """Shows the progress of a run until it ends, through stops and restarts; the exit code is the run's.

    Args:
        run_dir: the directory of a run.
    """

    def perform() -> int:
        from shardtune.launcher.runs import monitor

        return monitor.watch(Path(run_dir))

    return Command(perform)


def logs(run_dir: str, rank: str | None = None, follow: str = "False") -> Command:
    """Prints what a run has printed.

    Args:
        run_dir: the directory of a run.
        rank: the log of one rank instead of the job's output.
        follow: -f goes on printing for as long as the run goes on.
    """
    refuse_values(follow=follow)
    refuse_words(rank=rank)

    def perform() -> int:
        from shardtune.launcher.runs import monitor

        monitor.print_log(Path(run_dir), rank, follow=follow == "True")
        return 0

    return Command(perform)


def stop(run_dir: str, now: str = "False") -> Command:
    """Asks a run to save a checkpoint and stop; the job then stays out of the queue.

    Args:
        run_dir: the directory of a run.
        now: ends it at once, without a checkpoint.
    """
    refuse_values(now=now)

    def perform() -> int:
        from shardtune.launcher.runs import monitor

        print(monitor.stop(Path(run_dir), now=now == "True"))
        return 0

    return Command(perform)


def requeue(run_dir: str) -> Command:
    """Lets a running job save a checkpoint and go back into the queue; hands one that has ended in again as it was.

    Args:
        run_dir: the directory of a run.
    """

    def perform() -> int:
        from shardtune.launcher.runs import monitor

        print(monitor.requeue(Path(run_dir)))
        return 0

    return Command(perform)


def doctor(*overrides: str, nodes: str | None = None) -> Command:
    """Checks machines as training does before it begins: versions, clocks, the common file system, GPUs as nvidia-smi
    says, how fast each multiplies matrices, and what goes from each to each. Exit code 2 if they are not fit.

    Args:
        overrides: keys of job, such as job.partition=gpu.
        nodes: so many nodes of the cluster; this machine if not given.
    """
    if nodes is not None and not (nodes.isdecimal() and int(nodes)):
        raise SystemExit(f"shardtune: --nodes takes a number, got {nodes!r}")

    def perform() -> int:
        from shardtune.launcher.runs import checkup

        words = [*overrides, f"job.nodes={nodes}"] if nodes else list(overrides)
        return checkup.check_nodes(words, print) if nodes else checkup.check_here(words)

    return Command(perform)
