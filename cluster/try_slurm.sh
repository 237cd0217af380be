#!/usr/bin/env bash
# Tries the job scripts on this machine's CPU with the demo's data. Two workers train once without interruption, once
# interrupted by `scontrol requeue` and once by the time limit's signal; all must end with the same weights. Then one
# node, and an array of two runs.
#
#   cluster/try_slurm.sh FOLDER        for root on a throw-away Debian machine; see local_slurm.sh
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mkdir -p "${1:?folder}" && realpath "$1")
cluster/local_slurm.sh start "$folder/slurm"
export SLURM_CONF=$folder/slurm/slurm.conf
trap 'cluster/local_slurm.sh stop "$folder/slurm"' EXIT
[ -d "$folder/data" ] || .venv/bin/python -m deeplab.data.shapes "$folder/data"

train=(--flagfile=configs/demo.flags --voc_dir="$folder/data" --class_names="$folder/data/class_names.txt"
    --tfrecord_dir="$folder/shards" --epochs=0
    --learning_rate=0.003 --eval_every_epochs=0.5 --log_every_steps=5 --deterministic)

submit() {  # name, script, sbatch options -- train.py flags
    local name=$1 script=$2 options=()
    shift 2
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    sbatch --parsable --gpus-per-node=0 --cpus-per-task=1 --output="$folder/$name.log" "${options[@]}" \
        "cluster/$script" "${train[@]}" "$@"
}

nodes() {  # name, sbatch options: 60 steps of two workers
    submit "$1" slurm_nodes.sbatch "${@:2}" -- --train_steps=60 --model_dir="$folder/$1"
}

wait_for() {  # job
    while [ -n "$(squeue --noheader --jobs="$1" 2> /dev/null)" ]; do sleep 2; done
    scontrol show job "$1" | grep -E 'JobState|Restarts| NodeList=node'
}

echo "== two nodes, without interruption"
wait_for "$(nodes whole)"
echo "== two nodes, scontrol requeue at step 25"
job=$(nodes requeued)
until grep -qs 'step 25/' "$folder/requeued.log"; do sleep 0.2; done
scontrol requeue "$job"
wait_for "$job"
echo "== two nodes, time limit of 2 minutes, signal one minute earlier"
wait_for "$(nodes limited --time=2 --signal=USR1@60)"
for name in whole requeued limited; do
    grep -HE 'resuming|SIG|signal|validation at step 60' "$folder/$name.log" | sed "s|$folder/||g" || true
done
echo "== one node"
wait_for "$(submit node slurm_node.sbatch -- --train_steps=5 --model_dir="$folder/node")"
echo "== an array of two runs"
wait_for "$(RUNS=$folder/sweep RATES="0.003 0.007" SEEDS=1 submit array slurm_array.sbatch --array=0-1 -- --train_steps=5)"
ls "$folder"/sweep
.venv/bin/python - "$folder"/{whole,requeued,limited} <<'PY'
import hashlib
import sys

import tensorflow as tf

for folder in sys.argv[1:]:
    reader = tf.train.load_checkpoint(f"{folder}/checkpoints/latest")
    names = sorted(name for name in reader.get_variable_to_shape_map() if name.startswith(("model", "optimizer")))
    hashed = hashlib.sha256(b"".join(reader.get_tensor(name).tobytes() for name in names if "VARIABLE" in name))
    print(hashed.hexdigest(), len(names), "variables of", folder)
PY
