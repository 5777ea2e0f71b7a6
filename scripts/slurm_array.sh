#!/bin/sh
# One task of a SLURM array is one member with a fresh head, or one variant, on a shared folder:
#   mkdir -p build
#   dvc repro fake extractor fid_network
#   heads=$(sbatch --parsable --array=0-5 scripts/slurm_array.sh discriminator d0 d1 d2 d3 d4 d5)
#   sbatch --dependency=afterok:$heads --array=0-2 scripts/slurm_array.sh guided edm d0 mean_prob
#   dvc commit -f discriminator guided@{edm,d0,mean_prob}   # once all have ended: DVC records the results
#   dvc repro
#SBATCH --job-name=dguide
#SBATCH --output=build/slurm-%A-%a.txt
set -eu
stage=$1
shift
task=${SLURM_ARRAY_TASK_ID:?"is set by sbatch --array"}
if [ "$task" -ge $# ]; then
    echo "error: task $task, counted from 0, has none of the $# names; shorten --array" >&2
    exit 2
fi
shift "$task"
exec "${DGUIDE:-.venv/bin/dguide}" "$stage" "$1"
