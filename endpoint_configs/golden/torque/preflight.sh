#!/bin/bash
# Rendered from site torque (sha256 9503c003eb20) by fitserve 0.0.0: change the site file, not this one.
# One small job that tries on a node what workers will need. `make doctor` submits it.
#PBS -N fitserve-preflight
#PBS -j oe
#PBS -o preflight.out
#PBS -l walltime=00:05:00
#PBS -l nodes=1:ppn=1
#PBS -q batch
#PBS -l naccesspolicy=singlejob
#PBS -r n
cd "${SLURM_SUBMIT_DIR:-${PBS_O_WORKDIR:-.}}" || exit 78
# Rendered from site torque (sha256 9503c003eb20) by fitserve 0.0.0: change the site file, not this one.
# Prepares a node before its workers start. Nothing is installed here, ever.
fitserve_stop() { echo "fitserve: $1" >&2; exit 78; }
FITSERVE_THREADS="${FITSERVE_THREADS:-1}"
export FITSERVE_THREADS
export OMP_NUM_THREADS="$FITSERVE_THREADS" OPENBLAS_NUM_THREADS="$FITSERVE_THREADS" MKL_NUM_THREADS="$FITSERVE_THREADS"
# PBS tells Parsl nothing of the share of the node that the job got.
export PARSL_CORES=16
export JAX_PLATFORMS=cpu
if [ "$FITSERVE_THREADS" -eq 1 ]; then
  # XLA has a thread for every core of the node unless it is told otherwise.
  export XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
fi
export TMPDIR="/tmp/fitserve-$USER" FITSERVE_CACHE_DIR="$HOME/.fitserve/cache"
export FITSERVE_JIT_CACHE="$FITSERVE_CACHE_DIR/jit"
(umask 077 && mkdir -p "$TMPDIR") || fitserve_stop "cannot create $TMPDIR: see directories.scratch in the site file"
mkdir -p "$FITSERVE_CACHE_DIR" "$HOME/.fitserve/run" || fitserve_stop "cannot create $FITSERVE_CACHE_DIR or the run directory: see directories in the site file"
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
[ -r "$HOME/fitserve/worker-0.0.0.sif" ] || fitserve_stop "no image $HOME/fitserve/worker-0.0.0.sif: see environment.container.image in the site file"
fitserve_status=0
# Paths of a site file hold no blanks.
# shellcheck disable=SC2086
apptainer exec --bind $HOME/.fitserve/run --bind $HOME/.fitserve/cache --bind /tmp/fitserve-$USER --bind "$PWD" --pwd "$PWD" $HOME/fitserve/worker-0.0.0.sif python3 probe.py > probe.json || fitserve_status=$?
cp preflight.nonce seen-by-node || fitserve_stop "the node cannot write into the run directory"
exit "$fitserve_status"
