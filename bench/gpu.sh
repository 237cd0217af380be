#!/bin/sh
# Measures training and evaluation on this machine's GPUs in about ten minutes, for the table that docs/gpus.md lacks.
#
# bench/gpu.sh            all GPUs; CUDA_VISIBLE_DEVICES chooses some
# bench/gpu.sh --on_cpus  tries the script itself, without a GPU
#
# Paste the file that it writes, gpu_report.md, into an issue.
set -u
cd "$(dirname "$0")/.."
report=gpu_report.md
if [ -e "$report" ]; then
    echo "$report: exists already; move it away first" >&2
    exit 2
fi
python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || python=python3
export TF_CPP_MIN_LOG_LEVEL=2
status=$(mktemp)
partial=$(mktemp)
{
    echo "commit: $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
    "$python" -c 'import keras, tensorflow as tf
print("TensorFlow", tf.__version__, "Keras", keras.__version__)
print("built for:", tf.sysconfig.get_build_info().get("cuda_compute_capabilities", "no GPU"))'
    if command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=index,name,driver_version,memory.total,power.limit --format=csv
        nvidia-smi topo -m
    else
        echo "no nvidia-smi"
    fi
    grep -m1 "model name" /proc/cpuinfo
    echo "cores: $(nproc)"
    env | grep -E '^(TF_(GPU|CUDNN|USE|ENABLE|XLA)|NCCL_|CUDA_VISIBLE|XLA_)' | sort
    echo
    "$python" bench/speed/gpu.py "$@" || echo failed >"$status"
} | tee "$partial"
if [ -s "$status" ]; then
    rm "$status"
    echo "failed; what was measured until then: $partial" >&2
    exit 1
fi
rm "$status"
mv "$partial" "$report"
echo "written: $report; paste it into an issue"
