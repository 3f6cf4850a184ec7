#!/bin/bash
# Rendered from site polaris (sha256 a90d8ca92586) by fitserve 0.0.0: change the site file, not this one.
# Prepares a node before its workers start. Nothing is installed here, ever.
fitserve_stop() { echo "fitserve: $1" >&2; exit 78; }
FITSERVE_THREADS="${FITSERVE_THREADS:-8}"
export FITSERVE_THREADS
export OMP_NUM_THREADS="$FITSERVE_THREADS" OPENBLAS_NUM_THREADS="$FITSERVE_THREADS" MKL_NUM_THREADS="$FITSERVE_THREADS"
# PBS tells Parsl nothing of the share of the node that the job got.
export PARSL_CORES=64
# Without a GPU, JAX stops instead of quietly using the CPU.
export JAX_PLATFORMS=cuda XLA_PYTHON_CLIENT_PREALLOCATE=false
IFS=, read -r -a fitserve_gpus <<< "${CUDA_VISIBLE_DEVICES:-0,1,2,3}"
export FITSERVE_GPU_0="${fitserve_gpus[ 0 ]:-}" FITSERVE_GPU_1="${fitserve_gpus[ 1 ]:-}" FITSERVE_GPU_2="${fitserve_gpus[ 2 ]:-}" FITSERVE_GPU_3="${fitserve_gpus[ 3 ]:-}"
export TMPDIR="/local/scratch" FITSERVE_CACHE_DIR="$HOME/.fitserve/cache"
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
if ! command -v module > /dev/null 2>&1; then
  for fitserve_profile in /etc/profile.d/lmod.sh /etc/profile.d/modules.sh /etc/profile.d/z00_lmod.sh; do
    # shellcheck disable=SC1090
    if [ -r "$fitserve_profile" ]; then . "$fitserve_profile"; break; fi
  done
fi
module use "/soft/modulefiles" || fitserve_stop "no modules in /soft/modulefiles: see environment.module_paths in the site file"
module load spack-pe-base || fitserve_stop "module spack-pe-base cannot be loaded: see environment.modules in the site file"
module load apptainer || fitserve_stop "module apptainer cannot be loaded: see environment.modules in the site file"
[ -r "$HOME/fitserve/worker-cuda12-0.0.0.sif" ] || fitserve_stop "no image $HOME/fitserve/worker-cuda12-0.0.0.sif: see environment.container.image in the site file"
