#!/bin/bash
# Trains the points of a sweep, each in a task of a job array:
#
#   shardtune sweep recipes/chat.yaml --grid optim.lr=1e-5,2e-5 --sweep-dir=SWEEP_DIR --write-only
#   sbatch --array=0-1%2 --gpus-per-node=8 slurm/sweep.sh SWEEP_DIR
#
# `shardtune sweep` without --write-only does both. Each point is an ordinary run directory, SWEEP_DIR/N; the rest is
# as in slurm/finetune.sh. `shardtune submit` of a recipe with train.seeds comes here too: SWEEP_DIR/seed-N.

#SBATCH --job-name=shardtune-sweep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append

# ---- The job.
if [[ ! ${SLURM_ARRAY_TASK_ID:-} || ! ${1:-} ]]; then
    echo "shardtune: give the points and the sweep: sbatch --array=0-7%2 slurm/sweep.sh SWEEP_DIR" >&2
    exit 2
fi
# The names of train.seeds' and --fractions' points have a word before the number.
for point in "$1/"{seed-,part-,}"$SLURM_ARRAY_TASK_ID"; do
    [[ -d $point ]] && break
done
set -- "$point" "${@:2}"
command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
SHARDTUNE_CODE=${SHARDTUNE_CODE:-${command%%/slurm/sweep.sh*}}
# shellcheck source=slurm/finetune.sh
source "$SHARDTUNE_CODE/slurm/finetune.sh"
