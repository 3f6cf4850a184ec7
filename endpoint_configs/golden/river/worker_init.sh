#!/bin/bash
# Rendered from site river (sha256 ba53cd95b5c8) by fitserve 0.0.0: change the site file, not this one.
# Prepares a node before its workers start. Nothing is installed here, ever.
fitserve_stop() { echo "fitserve: $1" >&2; exit 78; }
FITSERVE_THREADS="${FITSERVE_THREADS:-1}"
export FITSERVE_THREADS
export OMP_NUM_THREADS="$FITSERVE_THREADS" OPENBLAS_NUM_THREADS="$FITSERVE_THREADS" MKL_NUM_THREADS="$FITSERVE_THREADS"
export JAX_PLATFORMS=cpu
if [ "$FITSERVE_THREADS" -eq 1 ]; then
  # XLA has a thread for every core of the node unless it is told otherwise.
  export XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
fi
export HOME=/tmp GLOBUS_COMPUTE_USER_DIR=/tmp/.globus_compute
export TMPDIR="/tmp/fitserve/scratch" FITSERVE_CACHE_DIR="/tmp/fitserve/cache"
export FITSERVE_JIT_CACHE="$FITSERVE_CACHE_DIR/jit"
mkdir -p "$TMPDIR" "$FITSERVE_CACHE_DIR" || fitserve_stop "cannot create $TMPDIR or $FITSERVE_CACHE_DIR: see directories in the site file"
cd "$TMPDIR" || fitserve_stop "cannot enter $TMPDIR"
# Parsl's sockets are below TMPDIR, and the whole name of a socket has at most 107 characters.
[ "${#TMPDIR}" -le 72 ] || fitserve_stop "$TMPDIR is too long for a socket below it: see directories.scratch in the site file"
