#!/bin/bash
# Predicts rows with the model of a run, on one node:
#
#   sbatch --gpus-per-node=1 slurm/eval.sh RUN_DIR --file=new.csv --out=predictions.jsonl [--model=last]
#
# The arguments are those of `shardtune predict`. Options of sbatch override the lines below; the environment is that of
# slurm/finetune.sh. With --dependency=afterok:JOB it waits for the training job.

#SBATCH --job-name=shardtune-eval
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4

# ---- The job.
set -uo pipefail
command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
code_dir=${SHARDTUNE_CODE:-${command%%/slurm/eval.sh*}}
# shellcheck source=slurm/site.sh
source "$code_dir/slurm/site.sh"

(($# > 1)) || die "give a run directory and rows: sbatch slurm/eval.sh RUN_DIR --file=new.csv --out=predictions.jsonl"
exec "${on_first_node[@]}" "$python" -m shardtune.trainer.commands.predict "$@"
