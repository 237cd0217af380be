#!/usr/bin/env bash
# Trains on several machines without a scheduler; the first is the chief. All must see this folder at the same path.
#
#   cluster/ssh.sh gpu1,gpu2 --tfrecord_dir=data/voc_shards --model_dir=runs/voc
#
# PORT (default 12345) must be free on all of them. Ctrl-C stops all of them at the same step, with a checkpoint.
# RSH (default ssh) starts a command on a host: RSH HOST COMMAND.
set -u
IFS=, read -ra hosts <<< "${1:?hosts, separated by commas}"
shift
port=${PORT:-12345} folder=$(cd "$(dirname "$0")/.." && pwd)
workers=("${hosts[@]/%/:$port}")
python=$([ -x "$folder/.venv/bin/python" ] && echo "$folder/.venv/bin/python" || echo python3)
pids=()
for index in "${!hosts[@]}"; do
    config=$("$python" "$folder/cluster/tf_config.py" "$index" "${workers[@]}")
    printf -v command '%q ' env "TF_CONFIG=$config" "$python" train.py "$@"
    # ssh forwards no signals, so the remote shell records its process ID for stop() to signal.
    ${RSH:-ssh} "${hosts[index]}" "cd $(printf '%q' "$folder") && echo \$\$ > .worker$index.pid && exec $command" &
    pids+=($!)
done
stop() {
    for index in "${!hosts[@]}"; do
        ${RSH:-ssh} "${hosts[index]}" "cd $(printf '%q' "$folder") && kill -TERM \$(cat .worker$index.pid)" &
    done
}
trap stop INT TERM
status=0
for pid in "${pids[@]}"; do
    while kill -0 "$pid" 2> /dev/null; do wait "$pid"; done  # a trapped signal interrupts wait
    wait "$pid" || { code=$?; [ $code -gt $status ] && status=$code; }
done
rm -f "$folder"/.worker*.pid
exit $status
