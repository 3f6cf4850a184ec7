#!/bin/bash
# Rendered from site perlmutter (sha256 4a52b2ad215a) by fitserve 0.0.0: change the site file, not this one.
# One small job that tries on a node what workers will need. `make doctor` submits it.
#SBATCH --job-name=fitserve-preflight
#SBATCH --output=preflight.out
#SBATCH --time=00:05:00
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=128
#SBATCH --qos=regular
#SBATCH --constraint=gpu
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --no-requeue
cd "${SLURM_SUBMIT_DIR:-${PBS_O_WORKDIR:-.}}" || exit 78
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
fitserve_status=0
# Paths of a site file hold no blanks.
# shellcheck disable=SC2086
shifter --image=fitserve/worker-cuda12:0.0.0 --module=gpu --volume=$SCRATCH/fitserve/run:$SCRATCH/fitserve/run --volume=$SCRATCH/fitserve/cache:$SCRATCH/fitserve/cache --volume=/tmp/fitserve-$USER:/tmp/fitserve-$USER python3 probe.py > probe.json || fitserve_status=$?
cp preflight.nonce seen-by-node || fitserve_stop "the node cannot write into the run directory"
exit "$fitserve_status"
