#!/bin/bash
# How ranks are started on all nodes of a job: srun, one task a node, torchrun in it. No job by itself.
# shellcheck disable=SC2034,SC2154 # from and for whoever sources it

# ---- The job.
unfit() { # slurm_job looks for these words
    say "$SLURMD_NODENAME is unfit: $1"
    exit 2
}

on_node() { # the same everywhere; what differs from node to node is asked there
    set -uo pipefail
    enter_site
    local scratch=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/shardtune-$UID
    ((${SLURM_GPUS_ON_NODE:-0} == gpus_per_node)) || unfit \
        "it has ${SLURM_GPUS_ON_NODE:-0} of the job's GPUs, the first node $gpus_per_node; give every node as many, with --gpus-per-node"
    [[ -d $run_dir ]] || unfit "it does not see $run_dir; the nodes need a file system in common"
    # Compilers' caches: at home, ranks of many nodes would wait for each other's locks.
    export TORCH_EXTENSIONS_DIR=${TORCH_EXTENSIONS_DIR:-$scratch/torch_extensions}
    export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$scratch/inductor}
    export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$scratch/triton}
    # torchrun's options --local-addr and --rdzv-conf
    export PET_LOCAL_ADDR=$SLURMD_NODENAME PET_RDZV_CONF=is_host=$((SLURM_NODEID == 0))
    exec "$@"
}
export run_dir gpus_per_node

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# A port of the job's own, for it may share a node with others.
torchrun=("$python" -m torch.distributed.run --nnodes="${#nodes[@]}" --nproc-per-node="$ranks_per_node"
    --rdzv-backend=c10d --rdzv-endpoint="${nodes[0]}:$((20000 + SLURM_JOB_ID % 10000))"
    --rdzv-id="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}")

# One task a node, with all that the job has there. A cluster that binds tasks would bind one that names no CPUs to one.
if [[ ${SHARDTUNE_CPU_BIND:-auto} != auto ]]; then
    step_options+=("--cpu-bind=$SHARDTUNE_CPU_BIND" "--cpus-per-task=$SLURM_CPUS_ON_NODE")
elif [[ $(scontrol show config) == *task/affinity* ]]; then
    step_options+=(--cpu-bind=none)
fi
start_ranks=(srun --nodes="${#nodes[@]}" --ntasks="${#nodes[@]}" --ntasks-per-node=1
    --kill-on-bad-exit=1 --wait=60 "${step_options[@]}"
    bash -c "$(declare -f say die enter_site unfit on_node); on_node \"\$@\"" shardtune
    "${inside[@]}" "${torchrun[@]}")
