#!/bin/bash
# Fine-tunes a recipe, or resumes a run, on the nodes of a Slurm job:
#
#   sbatch [option of sbatch …] slurm/finetune.sh RECIPE_OR_RUN_DIR [key=value …] [--run-dir=DIR]
#   sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=64 --time=8:00:00 slurm/finetune.sh recipes/chat.yaml optim.lr=2e-5
#
# Options of sbatch override the lines below. Training uses the nodes, GPUs and CPUs that Slurm allocates; without GPUs,
# job.ranks processes per node train on the CPUs. Of the recipe's other job keys only device, threads_per_rank,
# max_requeues, on_lost_node and exclude_bad_nodes are used here. The rest comes from the environment of sbatch:
#
#   SHARDTUNE_PYTHON            Python on the nodes; default: the active virtual environment, .venv beside slurm/ or in
#                               the working directory, or python3
#   SHARDTUNE_PREAMBLE          a bash file to source on every node first, for modules or NCCL settings
#   SHARDTUNE_CPU_BIND          CPU binding of a node's ranks (srun --cpu-bind): none, cores, …
#   SHARDTUNE_CONTAINER         an image to run in; SHARDTUNE_CONTAINER_RUNTIME is pyxis (default) or apptainer;
#   SHARDTUNE_CONTAINER_MOUNTS  /host/path:/container/path,… in addition to the working directory
#
# `shardtune submit` does the same in one command, checks the recipe first, and uses all job keys.

#SBATCH --job-name=shardtune
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append

# ---- The job. `shardtune submit` copies what follows into RUN_DIR/job.sbatch, under a header of its own.
# shellcheck disable=SC2317 # functions are called by name
set -uo pipefail

[[ ${SLURM_JOB_ID:-} ]] || {
    echo "shardtune: submit this script to Slurm: sbatch slurm/finetune.sh RECIPE [key=value …]" >&2
    exit 2
}
# Slurm signals this shell only (--signal=B:USR1). srun and torchrun must not receive that signal, because it would kill
# them: the ranks look for the stop file instead.
run_dir=
signals=
ask_to_stop() {
    signals+=" USR1"
    if [[ $run_dir ]]; then
        # Who asked, and the start that is meant (shardtune/run_dir/stop_file.py); a user's request stays.
        [[ -e $run_dir/stop ]] || printf '%s\n' "a signal of Slurm" "$SHARDTUNE_LEASE" >"$run_dir/stop"
        scontrol show job --oneliner "$SLURM_JOB_ID" >"$run_dir/logs/slurm-usr1.txt"
    fi
}
trap ask_to_stop USR1
trap 'signals+=" TERM"' TERM # Slurm ends the job; the ranks receive TERM too, and this shell waits for them

watched() { # in the background, because bash handles a signal only after the foreground program has ended
    local seen code
    "$@" &
    while :; do
        seen=$signals
        wait $!
        code=$?
        [[ $signals == "$seen" ]] && return $code
    done
}

# Slurm runs a copy of this script; the checkout that it comes from is where the command was.
command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
code_dir=${SHARDTUNE_CODE:-${command%%/slurm/finetune.sh*}}
# shellcheck source=slurm/site.sh
source "$code_dir/slurm/site.sh"

(($# > 0)) || die "give a recipe: sbatch slurm/finetune.sh RECIPE [key=value …]"

no_begin() { # its errors for users have exit code 2, and are in the output
    (($1 == 2)) || say "$python could not begin the job on $SLURMD_NODENAME: exit code $1"
    exit "$1"
}

# Recipe + allocation -> the layout of the ranks.
finished=0 stopped=0 device=cpu gpus_per_node=0 ranks_per_node=1 num_ranks=1 step_gpus='' guard='' delay=0
unset SHARDTUNE_LEASE
settings=$(SHARDTUNE_SHELL=$$ SHARDTUNE_SLURM_JOB=$(scontrol show job --oneliner "$SLURM_JOB_ID") \
    "${on_first_node[@]}" "$python" -m shardtune.launcher.slurm.batch_job begin "$@") || no_begin $?
eval "$settings"

keep_lease() { # this shell owns the run directory (shardtune/run_dir/lease.py); starts on other machines see it alive
    while sleep 5 && kill -0 $$ && [[ $(<"$run_dir/lease.json") == *"$SHARDTUNE_LEASE"* ]]; do
        touch -c "$run_dir/lease.json"
    done
}
keep_lease 2>/dev/null &
keeper=$!

# shellcheck source=slurm/guard.sh
source "$code_dir/slurm/guard.sh"

requeue() ( # excluding these nodes, if any are given
    trap "" TERM # Slurm sends it at once, but can change the nodes of a waiting job only
    scontrol requeue "$SLURM_JOB_ID" || exit
    [[ ! $1 ]] || scontrol update JobId="$SLURM_JOB_ID" ExcNodeList="$1" ||
        say "Slurm did not exclude $1; the requeued job may get the same nodes: see squeue --job=$SLURM_JOB_ID"
    exit 0
)

pause() { # seconds, fewer if a signal arrives
    sleep "$1" &
    wait $!
    kill $! 2>/dev/null
}

end() { # reports how this start ended; exits with the code of the job, or returns if the ranks are to be restarted here
    local verdict code pause exclude
    verdict=$(SHARDTUNE_SLURM_JOB=$(scontrol show job --oneliner "$SLURM_JOB_ID") \
        "${on_first_node[@]}" "$python" -m shardtune.launcher.slurm.batch_job end "$run_dir" --code="$1" --signals="$signals" "${@:2}")
    code=$?
    if [[ $verdict == restart$'\n'* ]]; then
        settings=${verdict#*$'\n'}
        return
    fi
    kill $keeper 2>/dev/null
    stop_guard
    read -r verdict exclude <<<"$verdict"
    if [[ $verdict == requeue ]]; then
        for pause in 5 15 45 0; do # the controller may be restarting
            requeue "$exclude" && exit $code
            sleep "$pause"
        done
        say "Slurm did not requeue the job; submit it again: shardtune submit $run_dir"
    fi
    exit $code
}

((finished)) && end 0
((stopped)) && end 75 --preparation # as a user asked while the job waited

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
start_guard
watched "${on_first_node[@]}" "$python" -m shardtune.trainer "$run_dir" --prepare="$num_ranks" || end $? --preparation
[[ $signals ]] && end 75 --preparation

# shellcheck source=slurm/ranks.sh
source "$code_dir/slurm/ranks.sh"

while :; do
    watched "${start_ranks[@]}" -m shardtune.trainer "$run_dir" --ranks="$num_ranks" --device="$device" --job="$SLURM_JOB_ID"
    code=$? ended=$SECONDS
    end $code
    eval "$settings" # nodes, attempt, delay
    num_ranks=$((ranks_per_node * ${#nodes[@]}))
    plan_ranks
    start_guard
    delay=$((delay - (SECONDS - ended)))
    ((delay > 0)) && [[ ! $signals ]] && pause $delay
    [[ $signals ]] && end 75
done
