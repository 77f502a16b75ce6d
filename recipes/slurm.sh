#!/bin/bash
# Machines of a Slurm cluster learn as one run, one process for each GPU. From a checkout whose
# environment is active:
#     sbatch recipes/slurm.sh gsm8k --model Qwen/Qwen2.5-0.5B
# Five minutes before its time is up a job saves a checkpoint, is queued again, and goes on from there.
# It has been run with stand-ins for Slurm's commands, on one machine without a GPU; not on a cluster yet.
#SBATCH --job-name=cory
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=29500 WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
run=runs/slurm-$SLURM_JOB_ID
resume=()
if [ -n "$(ls "$run/checkpoints" 2>/dev/null)" ]; then resume=(--resume); fi

srun bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec python -m agents train "$@"' \
    train "$@" --out "$run" "${resume[@]}"
code=$?

# 143: SIGTERM, and a checkpoint has been saved. 0 is a finished run, 2 something to be mended first.
if [ "$code" = 143 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
