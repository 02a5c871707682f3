#!/bin/bash
# A run on two machines of a SLURM cluster: sbatch slurm.sh. Submitted again, it goes on.
#SBATCH --job-name=infogan
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
# TERM comes two minutes before the time is up: the run saves and ends.
set -euo pipefail
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))

# Else restarted ranks may read the addresses of lost ones, and wait.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# The run's folder is on a file system that all machines see: rank 0 may be on any of them.
srun torchrun --nnodes "$SLURM_NNODES" --nproc_per_node "$SLURM_GPUS_ON_NODE" \
    --rdzv_backend c10d --rdzv_id "$SLURM_JOB_ID" --rdzv_endpoint "$first:$port" --max_restarts 3 \
    -m fastinfogan.train mnist --out "$HOME/runs/mnist"
