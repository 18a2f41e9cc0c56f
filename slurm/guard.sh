#!/bin/bash
# Requeues a job that has lost the node of its batch script: with --no-kill, Slurm leaves such a job to itself, and its
# other nodes idle. Two of those look after it. Sourced, not submitted.
# shellcheck disable=SC2154 # variables of the script that sources it

# ---- The job.
guard_pid=

guard_batch_node() { # job, node, requeue or cancel
    local details left
    while sleep 30; do
        details=$(scontrol show job --oneliner "$1") || continue
        [[ $details == *\ JobState=RUNNING\ * && $details =~ \ NodeList=([^ ]+) ]] || continue
        left=$(scontrol show hostnames "${BASH_REMATCH[1]}") || continue
        [[ $'\n'$left$'\n' == *$'\n'$2$'\n'* ]] && continue
        [[ $3 == requeue ]] && scontrol requeue "$1" && exit
        scancel "$1" && exit
    done
}

stop_guard() {
    [[ ! $guard_pid ]] || kill "$guard_pid" 2>/dev/null
    guard_pid=
}

start_guard() { # nodes, guard
    local others=("${nodes[@]:1:2}")
    stop_guard
    [[ $guard && ${others[*]:-} ]] || return 0
    # It shares what the ranks have: no GPU, no memory and no CPU is taken from them.
    env -u SLURM_GPUS -u SLURM_GPUS_PER_NODE -u SLURM_GPUS_PER_TASK -u SLURM_MEM_PER_CPU -u SLURM_MEM_PER_GPU \
        srun --quiet --overlap --no-kill --mem=0 --gres=none \
        --nodes="${#others[@]}" --ntasks="${#others[@]}" --ntasks-per-node=1 --nodelist="$(IFS=, && echo "${others[*]}")" \
        bash -c "$(declare -f guard_batch_node); guard_batch_node \"\$@\"" shardtune \
        "$SLURM_JOB_ID" "$SLURMD_NODENAME" "$guard" &>/dev/null </dev/null &
    guard_pid=$!
}
