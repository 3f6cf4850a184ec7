#!/bin/bash

#SBATCH --job-name=parsl.block-0.TIME
#SBATCH --output=/RUN/parsl.block-0.TIME.stdout
#SBATCH --error=/RUN/parsl.block-0.TIME.stderr
#SBATCH --nodes=1
#SBATCH --time=120
#SBATCH --ntasks-per-node=1
# Rendered from site perlmutter (sha256 4a52b2ad215a) by fitserve 0.0.0: change the site file, not this one.
#SBATCH --no-requeue

#SBATCH --exclusive
#SBATCH --qos=regular
#SBATCH --constraint=gpu
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=128

export FITSERVE_THREADS=16
# Rendered from site perlmutter (sha256 4a52b2ad215a) by fitserve 0.0.0: change the site file, not this one.
# Prepares a node before its workers start. Nothing is installed here, ever.
fitserve_stop() { echo "fitserve: $1" >&2; exit 78; }
FITSERVE_THREADS="${FITSERVE_THREADS:-16}"
export FITSERVE_THREADS
export OMP_NUM_THREADS="$FITSERVE_THREADS" OPENBLAS_NUM_THREADS="$FITSERVE_THREADS" MKL_NUM_THREADS="$FITSERVE_THREADS"
# Without a GPU, JAX stops instead of quietly using the CPU.
export JAX_PLATFORMS=cuda XLA_PYTHON_CLIENT_PREALLOCATE=false
IFS=, read -r -a fitserve_gpus <<< "${CUDA_VISIBLE_DEVICES:-0,1,2,3}"
export FITSERVE_GPU_0="${fitserve_gpus[ 0 ]:-}" FITSERVE_GPU_1="${fitserve_gpus[ 1 ]:-}" FITSERVE_GPU_2="${fitserve_gpus[ 2 ]:-}" FITSERVE_GPU_3="${fitserve_gpus[ 3 ]:-}"
export TMPDIR="/tmp/fitserve-$USER" FITSERVE_CACHE_DIR="$SCRATCH/fitserve/cache"
export FITSERVE_JIT_CACHE="$FITSERVE_CACHE_DIR/jit"
(umask 077 && mkdir -p "$TMPDIR") || fitserve_stop "cannot create $TMPDIR: see directories.scratch in the site file"
mkdir -p "$FITSERVE_CACHE_DIR" "$SCRATCH/fitserve/run" || fitserve_stop "cannot create $FITSERVE_CACHE_DIR or the run directory: see directories in the site file"
fitserve_private() {
  # It and all that is above it, links too, are this user's or the system's (accounts below 100), and
  # where others may write the sticky bit keeps them from what is not theirs. A group with the user's
  # number is the user's own.
  local fitserve_at fitserve_all=()
  for fitserve_at in "$1" "$(cd -P -- "$1" && pwd -P)"; do
    [ -n "$fitserve_at" ] || return 1
    while [ -n "$fitserve_at" ]; do fitserve_all+=("$fitserve_at"); fitserve_at=${fitserve_at%/*}; done
  done
  [ -z "$(find / "${fitserve_all[@]}" -maxdepth 0 "(" ! -uid -100 ! -uid "$EUID" -o ! -type l ! -perm -1000 "(" -perm -0002 -o -perm -0020 ! -gid "$EUID" ")" ")" -print 2>&1)" ]
}
fitserve_private "$TMPDIR" || fitserve_stop "$TMPDIR is not private: somebody else can change what is in it, or put something in its place; see directories.scratch in the site file"
# Parsl's sockets are below TMPDIR, and the whole name of a socket has at most 107 characters.
[ "${#TMPDIR}" -le 72 ] || fitserve_stop "$TMPDIR is too long for a socket below it: see directories.scratch in the site file"
export PARSL_CORES=128


export JOBNAME="parsl.block-0.TIME"

set -e
export CORES=$SLURM_CPUS_ON_NODE
export NODES=$SLURM_JOB_NUM_NODES

[[ "1" == "1" ]] && echo "Found cores : $CORES"
[[ "1" == "1" ]] && echo "Found nodes : $NODES"
WORKERCOUNT=1
SCRIPT_DIR="/RUN"
[[ -d $SCRIPT_DIR ]] || SCRIPT_DIR=""

cat << SLURM_EOF > ${SCRIPT_DIR:+$SCRIPT_DIR/}cmd_$SLURM_JOB_NAME.sh
shifter --image=fitserve/worker-cuda12:0.0.0 --module=gpu --volume=$SCRATCH/fitserve/run:$SCRATCH/fitserve/run --volume=$SCRATCH/fitserve/cache:$SCRATCH/fitserve/cache --volume=/tmp/fitserve-$USER:/tmp/fitserve-$USER globus-compute-endpoint python-exec parsl.executors.high_throughput.process_worker_pool  --max_workers_per_node=4 -a 192.0.2.10 -p 0 -c 16 -m None --poll 10 --port=54321 --cert_dir /RUN/certificates --logdir=$SCRATCH/fitserve/run/fitserve-perlmutter-HighThroughputExecutor --logconf=/RUN/log_config --block_id=0 --hb_period=30  --hb_threshold=120 --drain_period=5280 --cpu-affinity none  --mpi-launcher=mpiexec --available-accelerators $FITSERVE_GPU_0 $FITSERVE_GPU_1 $FITSERVE_GPU_2 $FITSERVE_GPU_3
SLURM_EOF
chmod a+x ${SCRIPT_DIR:+$SCRIPT_DIR/}cmd_$SLURM_JOB_NAME.sh

srun --ntasks 1 -l --cpus-per-task=128 bash ${SCRIPT_DIR:+$SCRIPT_DIR/}cmd_$SLURM_JOB_NAME.sh

[[ "1" == "1" ]] && echo "Done"
