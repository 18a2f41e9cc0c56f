#!/bin/bash
# Checks the nodes of a job as training does at its start, and prints what each rank measured:
#
#   sbatch --nodes=8 --gpus-per-node=8 slurm/doctor.sh [job.ranks=… job.device=…]
#
# `shardtune doctor --nodes=8` submits it and prints its output. The environment is that of slurm/finetune.sh.

#SBATCH --job-name=shardtune-doctor
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=10

# ---- The job.
# shellcheck disable=SC2317 # functions are called by name
set -uo pipefail
command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
code_dir=${SHARDTUNE_CODE:-${command%%/slurm/doctor.sh*}}
# shellcheck source=slurm/site.sh
source "$code_dir/slurm/site.sh"

run_dir=$PWD device=cpu gpus_per_node=0 ranks_per_node=1
settings=$(SHARDTUNE_SLURM_JOB=$(scontrol show job --oneliner "$SLURM_JOB_ID") \
    "${on_first_node[@]}" "$python" -m shardtune.launcher.slurm.batch_job layout "$PWD" "$@") || exit
eval "$settings"
# shellcheck source=slurm/ranks.sh
source "$code_dir/slurm/ranks.sh"

exec "${start_ranks[@]}" -m shardtune.trainer.commands.doctor "$run_dir" --device="$device"
