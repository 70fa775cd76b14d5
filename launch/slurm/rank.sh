#!/usr/bin/env bash
# Tells a SLURM task which rank of the job it is, then becomes the command:
#   srun launch/slurm/rank.sh .venv/bin/python -m train.doctor
# No launcher stands between SLURM and the rank, so SLURM's signals reach it. Ranks meet at a port of the job's first
# node that follows from the job's number (20000 to 29999).
set -euo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_ADDR=$(scontrol show node "$first" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export MASTER_ADDR MASTER_PORT
export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$@"
