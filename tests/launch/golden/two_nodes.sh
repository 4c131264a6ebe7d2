#!/bin/bash

# Parameters
#SBATCH --account=A
#SBATCH --constraint=C
#SBATCH --cpus-per-task=8
#SBATCH --exclude='bad[1-2]'
#SBATCH --exclusive
#SBATCH --gpus-per-node=h100:8
#SBATCH --job-name=negbench-RUN
#SBATCH --mail-type=END
#SBATCH --mem=200G
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --open-mode=append
#SBATCH --output=/shared/results/RUN/submissions/STAMP/%j/%j_0_log.out
#SBATCH --partition=P
#SBATCH --qos=Q
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=2160

# setup
module load cuda
export NCCL_SOCKET_IFNAME=ib0
export PYTHONPATH=/shared/results/RUN/submissions/STAMP/code
export PYTHONSAFEPATH=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /shared/results/RUN/submissions/STAMP/%j/%j_%t_log.out --kill-on-bad-exit=1 --cpus-per-task=8 PYTHON -u -m submitit.core._submit /shared/results/RUN/submissions/STAMP/%j


# teardown
rc=$?
if [ $rc -eq 75 ] || [ $rc -ge 128 ]; then
  if [ "${SLURM_RESTART_COUNT:-0}" -ge 10 ]; then
    echo "negbench: requeued 10 times (cluster.max_requeues), not finished; submit again"
  elif scontrol show job "$SLURM_JOB_ID" | grep -q JobState=RUNNING; then
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit $rc