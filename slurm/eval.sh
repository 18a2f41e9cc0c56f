#!/bin/bash
# Evaluates the model of a run, or of a folder, on labeled rows, on all GPUs of one node, or predicts rows that have no
# labels:
#
#   sbatch --gpus-per-node=8 slurm/eval.sh RUN_DIR --data=other.csv [--predictions=out.jsonl] [--model=last]
#   sbatch --gpus-per-node=8 slurm/eval.sh MODEL_FOLDER --task=classification --data=other.csv
#   sbatch --gpus-per-node=8 slurm/eval.sh RUN_DIR --file=new.csv --out=predictions.jsonl --ranks=8 [--model=last]
#
# The arguments are those of `shardtune eval`, or, without --data, of `shardtune predict`. Options of sbatch override the
# lines below; the environment is that of slurm/finetune.sh. With --dependency=afterok:JOB it waits for the training job.

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

(($# > 1)) || die "give a run directory and rows: sbatch slurm/eval.sh RUN_DIR --data=other.csv (or --file=new.csv)"
program=(shardtune.launcher predict)
for word in "$@"; do
    [[ $word == --data || $word == --data=* ]] && program=(shardtune.launcher eval)
done
exec "${on_first_node[@]}" "$python" -m "${program[@]}" "$@"
