#!/usr/bin/env bash
# Tries slurm_nodes.sbatch on this machine: two workers train the demo's data on the CPU, once without interruption, once
# taken from the nodes by `scontrol requeue` and once by the time limit's signal; all must end with the same weights.
#
#   cluster/try_slurm.sh FOLDER        for a throw-away Debian machine and root; see local_slurm.sh
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mkdir -p "${1:?folder}" && realpath "$1")
cluster/local_slurm.sh start "$folder/slurm"
export SLURM_CONF=$folder/slurm/slurm.conf
trap 'cluster/local_slurm.sh stop "$folder/slurm"' EXIT
[ -d "$folder/data" ] || .venv/bin/python -m deeplab.data.shapes "$folder/data"

submit() {  # name, sbatch's options
    local name=$1
    shift
    sbatch --parsable --gpus-per-node=0 --cpus-per-task=1 --output="$folder/$name.log" "$@" cluster/slurm_nodes.sbatch \
        --flagfile=configs/demo.flags --voc_dir="$folder/data" --tfrecord_dir="$folder/shards" \
        --model_dir="$folder/$name" --epochs=0 --train_steps=60 --eval_every_epochs=0.5 --log_every_steps=5 \
        --learning_rate=0.003 --deterministic
}

finished() {  # job
    [[ $(scontrol show job "$1" | grep -o 'JobState=[A-Z]*') =~ COMPLETED|FAILED|CANCELLED|TIMEOUT ]]
}

wait_for() {  # job
    until finished "$1"; do sleep 2; done
    scontrol show job "$1" | grep -E 'JobState|Restarts|NodeList=node'
}

echo "== without interruption"
wait_for "$(submit whole)"
echo "== scontrol requeue at step 25"
job=$(submit requeued)
until grep -qs 'step 25/' "$folder/requeued.log"; do sleep 0.2; done
scontrol requeue "$job"
wait_for "$job"
echo "== time limit of 2 minutes, signal a minute before"
wait_for "$(submit limited --time=2 --signal=USR1@60)"
for name in whole requeued limited; do
    grep -HE 'resuming|changed|SIG|signal|validation at step 60' "$folder/$name.log" | sed "s|$folder/||g" || true
done
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
