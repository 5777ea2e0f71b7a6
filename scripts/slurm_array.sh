#!/bin/sh
# One task of a SLURM array is one member or variant; docs/scaling.md shows the whole of it.
#   sbatch --array=0-5 scripts/slurm_array.sh discriminator mini d0 d1 d2 d3 d4 d5
#SBATCH --job-name=dguide
#SBATCH --output=build/slurm-%A-%a.txt
set -eu
stage=$1 profile=$2
shift 2
case $stage in
discriminator) choice=--member ;;
guided | evaluation) choice=--variant ;;
*) echo "error: expected discriminator, guided or evaluation; got $stage; run dguide $stage itself" >&2 && exit 2 ;;
esac
task=${SLURM_ARRAY_TASK_ID:?"is set by sbatch --array"}
if [ "$task" -ge $# ]; then
    echo "error: expected a name for task $task; got $# names; shorten --array" >&2
    exit 2
fi
shift "$task"
exec "${DGUIDE:-.venv/bin/dguide}" "$stage" --profile "$profile" "$choice" "$1"
