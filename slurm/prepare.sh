#!/bin/bash
# Reads and tokenizes a recipe's data on the CPUs of one node, ahead of a training job that waits for this one:
#
#   prepare=$(sbatch --parsable slurm/prepare.sh recipes/chat.yaml)
#   sbatch --dependency=afterok:$prepare --kill-on-invalid-dep=yes … slurm/finetune.sh recipes/chat.yaml
#
# `shardtune submit RECIPE --prepare` submits both. Options of sbatch override the lines below; the environment is that
# of slurm/finetune.sh.

#SBATCH --job-name=shardtune-prepare
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8

# ---- The job.
set -uo pipefail
command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
code_dir=${SHARDTUNE_CODE:-${command%%/slurm/prepare.sh*}}
# shellcheck source=slurm/site.sh
source "$code_dir/slurm/site.sh"

(($# > 0)) || die "give a recipe: sbatch slurm/prepare.sh RECIPE [key=value …]"
exec "${on_first_node[@]}" "$python" -m shardtune.trainer.commands.prepare "$@"
