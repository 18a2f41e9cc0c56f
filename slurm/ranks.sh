#!/bin/bash
# Starts the ranks on the nodes of a job: srun with one task per node, which runs torchrun. Sourced, not submitted.
# shellcheck disable=SC2034,SC2154 # variables of the script that sources it

# ---- The job.
unfit() { # shardtune.launcher.slurm.lifecycle looks for these words
    say "$SLURMD_NODENAME is unfit: $1"
    exit 2
}

on_node() { # the same command on every node; what differs between nodes is determined here
    set -uo pipefail
    enter_site
    local scratch=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/shardtune-$UID
    ((${SLURM_GPUS_ON_NODE:-0} == gpus_per_node)) || unfit \
        "it has ${SLURM_GPUS_ON_NODE:-0} of the job's GPUs, the first node has $gpus_per_node; request the same number on every node with --gpus-per-node"
    [[ -d $run_dir ]] || unfit "it does not see $run_dir; put the run directory on a file system that all nodes share"
    # Its name can be guessed: nothing is loaded from a folder that another user may have filled.
    mkdir -p "${scratch%/*}"
    mkdir -m 700 "$scratch" 2>/dev/null # it may exist
    if [[ -O $scratch && ! -L $scratch ]]; then
        chmod 700 "$scratch"
    else
        scratch=$(mktemp -d) || unfit "it has no folder for compiler caches: set TMPDIR to one that can be written to"
    fi
    # Compiler caches are local: in the home directory, ranks of many nodes would wait for each other's locks.
    export TORCH_EXTENSIONS_DIR=${TORCH_EXTENSIONS_DIR:-$scratch/torch_extensions}
    export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$scratch/inductor}
    export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$scratch/triton}
    # torchrun's options --local-addr and --rdzv-conf
    export PET_LOCAL_ADDR=$SLURMD_NODENAME PET_RDZV_CONF=is_host=$((SLURM_NODEID == 0))
    exec "$@"
}
export run_dir gpus_per_node

rank_options=("${step_options[@]}")
[[ ${step_gpus:-} ]] && rank_options+=("--gpus-per-node=$step_gpus")
# One task per node, with all CPUs of the job there: clusters that bind tasks give a task without a CPU count only one.
if [[ ${SHARDTUNE_CPU_BIND:-auto} != auto ]]; then
    rank_options+=("--cpu-bind=$SHARDTUNE_CPU_BIND" "--cpus-per-task=$SLURM_CPUS_ON_NODE")
elif [[ $(scontrol show config) == *task/affinity* ]]; then
    rank_options+=(--cpu-bind=none)
fi

plan_ranks() { # nodes, attempt -> start_ranks
    local torchrun port
    # A port derived from the job id, because the job may share a node with others; another one for each restart.
    port=$((20000 + (SLURM_JOB_ID + 997 * attempt) % 10000))
    torchrun=("$python" -m torch.distributed.run --nnodes="${#nodes[@]}" --nproc-per-node="$ranks_per_node"
        --rdzv-backend=c10d --rdzv-endpoint="${nodes[0]}:$port"
        --rdzv-id="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}.$attempt")
    start_ranks=(srun --nodes="${#nodes[@]}" --ntasks="${#nodes[@]}" --ntasks-per-node=1
        --kill-on-bad-exit=1 --wait=60 "${rank_options[@]}")
    ((attempt)) && start_ranks+=("--nodelist=$(IFS=, && echo "${nodes[*]}")")
    start_ranks+=(bash -c "$(declare -f say die preamble_failed enter_site unfit on_node); on_node \"\$@\"" shardtune
        "${inside[@]}" "${torchrun[@]}")
}
attempt=0
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
plan_ranks
