#!/bin/bash
# Fine-tunes a recipe, or goes on with a run directory, on the nodes of a Slurm job:
#
#   sbatch [option of sbatch …] slurm/finetune.sh RECIPE_OR_RUN_DIR [key=value …] [--run-dir=DIR]
#   sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=64 --time=8:00:00 slurm/finetune.sh recipes/chat.yaml optim.lr=2e-5
#
# Options of sbatch override the lines below. The nodes, and the GPUs and CPUs on each, are what Slurm gives; without a
# GPU, job.ranks processes a node train on the CPUs. Of the recipe's other job keys only device, threads_per_rank,
# max_requeues and exclude_bad_nodes count here. The rest comes from the environment of sbatch:
#
#   SHARDTUNE_PYTHON            Python on the nodes: by default that of the active virtual environment, of .venv beside
#                               slurm/ or in the working directory, or else python3
#   SHARDTUNE_PREAMBLE          a bash file that is sourced on every node first: modules, NCCL's settings
#   SHARDTUNE_CPU_BIND          what srun binds a node's ranks to (srun --cpu-bind): none, cores, …
#   SHARDTUNE_CONTAINER         an image to run in; SHARDTUNE_CONTAINER_RUNTIME is pyxis (the default) or apptainer;
#   SHARDTUNE_CONTAINER_MOUNTS  is /here:/there,… besides the working directory
#
# `shardtune submit` does the same with one command, checks the recipe first, and takes all job keys.

#SBATCH --job-name=shardtune
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append

# ---- The job. `shardtune submit` freezes what follows into RUN_DIR/job.sbatch, under a header of its own.
# shellcheck disable=SC2317 # functions that are called by name
set -uo pipefail

[[ ${SLURM_JOB_ID:-} ]] || {
    echo "shardtune: this script is for Slurm: sbatch slurm/finetune.sh RECIPE [key=value …]" >&2
    exit 2
}
# Slurm warns this shell alone (--signal=B:USR1). Neither srun nor torchrun must get that signal, for both would die of
# it: the ranks look for the file.
run_dir=
signals=
ask_to_stop() {
    signals+=" USR1"
    if [[ $run_dir ]]; then
        : >>"$run_dir/stop"
        scontrol show job --oneliner "$SLURM_JOB_ID" >"$run_dir/logs/slurm-usr1.txt"
    fi
}
trap ask_to_stop USR1
trap 'signals+=" TERM"' TERM # Slurm ends the job; the ranks have got the same, and this shell waits for them

watched() { # in the background, for bash handles a signal only once the program in the foreground has ended
    local seen code
    "$@" &
    while :; do
        seen=$signals
        wait $!
        code=$?
        [[ $signals == "$seen" ]] && return $code
    done
}

# Slurm runs a copy of this script; the clone that it is from is where the command was.
command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
code_dir=${SHARDTUNE_CODE:-${command%%/slurm/finetune.sh*}}
# shellcheck source=slurm/site.sh
source "$code_dir/slurm/site.sh"

(($# > 0)) || die "no recipe is given: sbatch slurm/finetune.sh RECIPE [key=value …]"

# The recipe and what Slurm has given -> who trains, and where.
finished=0 device=cpu gpus_per_node=0 ranks_per_node=1 num_ranks=1
settings=$(SHARDTUNE_SLURM_JOB=$(scontrol show job --oneliner "$SLURM_JOB_ID") \
    "${on_first_node[@]}" "$python" -m shardtune.launcher.slurm.batch_job begin "$@") || exit
eval "$settings"

go_back() ( # into the queue, and to other nodes than these, if any are named
    trap "" TERM # it is sent at once; and only of a job that waits can Slurm change the nodes
    scontrol requeue "$SLURM_JOB_ID" || exit
    [[ ! $1 ]] || scontrol update JobId="$SLURM_JOB_ID" ExcNodeList="$1" ||
        say "Slurm does not let the job go without $1; take it out of the queue, or see if it begins"
    exit 0
)

end() { # says how this start has ended; the exit code is the job's
    local verdict code pause leave
    verdict=$(SHARDTUNE_SLURM_JOB=$(scontrol show job --oneliner "$SLURM_JOB_ID") \
        "${on_first_node[@]}" "$python" -m shardtune.launcher.slurm.batch_job end "$run_dir" --code="$1" --signals="$signals")
    code=$?
    read -r verdict leave <<<"$verdict"
    if [[ $verdict == requeue ]]; then
        for pause in 5 15 45 0; do # the controller may be restarting
            go_back "$leave" && exit $code
            sleep "$pause"
        done
        say "Slurm does not take the job back into the queue; hand it in again: shardtune submit $run_dir"
    fi
    exit $code
}

((finished)) && end 0

watched "${on_first_node[@]}" "$python" -m shardtune.trainer "$run_dir" --prepare="$num_ranks" || end $?
[[ $signals ]] && end 75

# shellcheck source=slurm/ranks.sh
source "$code_dir/slurm/ranks.sh"

watched "${start_ranks[@]}" -m shardtune.trainer "$run_dir" --ranks="$num_ranks" --device="$device" --job="$SLURM_JOB_ID"
end $?
