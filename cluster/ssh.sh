#!/usr/bin/env bash
# Trains on several machines without a scheduler; the first is the chief. All must see this folder at the same path.
#
#   cluster/ssh.sh gpu1,gpu2 --tfrecord_dir=data/voc_shards --model_dir=runs/voc
#
# PORT (default 12345) must be free on all of them; runs that share a machine need different ones. TensorFlow listens
# there on all network interfaces, and runs what it is sent by anyone: only for a network whose machines you trust
# (docs/clusters.md). Ctrl-C stops all of them at the same step, with a checkpoint.
# RSH (default ssh) starts a command on a host: RSH HOST COMMAND.
set -u
IFS=, read -ra hosts <<< "${1:?hosts, separated by commas}"
shift
port=${PORT:-12345} folder=$(cd "$(dirname "$0")/.." && pwd)
workers=("${hosts[@]/%/:$port}")
python=$([ -x "$folder/.venv/bin/python" ] && echo "$folder/.venv/bin/python" || echo python3)

# The files for process IDs carry the address, which no two runs can share. All are created, without overwriting,
# before the first worker starts: a worker without the others would wait for them.
files=()
for host in "${hosts[@]}"; do
    file=$folder/.worker-$host-$port.pid
    if ! (set -o noclobber && : > "$file") 2> /dev/null; then
        echo "ssh.sh: cannot create $file; if it exists, another run has $host:$port: set another PORT," \
            "or delete the file if that run is over" >&2
        rm -f "${files[@]}"
        exit 1
    fi
    files+=("$file")
done

pids=()
for index in "${!hosts[@]}"; do
    config=$("$python" "$folder/cluster/tf_config.py" "$index" "${workers[@]}")
    printf -v command '%q ' env "TF_CONFIG=$config" "$python" train.py "$@"
    # ssh forwards no signals, so the remote shell records its process ID for stop() to signal.
    printf -v record 'cd %q && echo $$ > %q' "$folder" "${files[index]}"
    ${RSH:-ssh} "${hosts[index]}" "$record && exec $command" &
    pids+=($!)
done
stop() {
    for index in "${!hosts[@]}"; do
        ${RSH:-ssh} "${hosts[index]}" "kill -TERM \$(cat $(printf '%q' "${files[index]}"))" &
    done
}
trap stop INT TERM
status=0
for pid in "${pids[@]}"; do
    while kill -0 "$pid" 2> /dev/null; do wait "$pid"; done  # a trapped signal interrupts wait
    wait "$pid" || { code=$?; [ $code -gt $status ] && status=$code; }
done
rm -f "${files[@]}"
exit $status
