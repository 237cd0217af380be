"""What TensorFlow's graph optimizers hand to GPUs: fusions that belong together, layouts, transposes.

The optimizers are those of the installed wheel; tests/gpu_graphs.py says how they come to see GPUs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from host_tensors import has_gpu_kernels

PROGRAM = Path(__file__).with_name("gpu_graphs.py")

EXPECTED = {
    # Normalisations: 29 in six blocks of ResNet with ASPP; 19 are followed by a ReLU alone, the others by a sum.
    "short_resnet:float16:2:train": {"plain": 2 * 29, "forward_fused": 2 * 19, "layouts": ["NHWC"], "transposes": 0},
    "short_resnet:float16:1:train": {"fused": 12, "forward_fused": 12, "layouts": ["NHWC"], "transposes": 0},
    "short_resnet:bfloat16:2:train": {"plain": 2 * 29, "forward_fused": 0, "layouts": ["NHWC"], "transposes": 0},
    "short_resnet:float32:1:train": {"plain": 29, "layouts": ["NCHW"], "transposes": 6},
    "short_resnet:float32:2:train": {"plain": 2 * 29, "forward_fused": 2 * 19, "layouts": ["NCHW"], "transposes": 13},
    "short_resnet:float32:1:evaluate": {"forward_fused": 19, "layouts": ["NHWC"], "transposes": 0},
    "mobilenet_v3_large:float16:2:train": {"plain": 2 * 52, "forward_fused": 34, "transposes": 0},
    "mobilenet_v3_large:float32:1:train": {"plain": 52, "layouts": ["NCHW"], "transposes": 22},
    "efficientnet_v2_b0:float32:1:train": {"plain": 65, "layouts": ["NCHW"], "transposes": 78},
}
"""Counts over all replicas. In every case no optimizer fails, and no gradient is fused with a kernel not its own."""


@pytest.fixture(scope="module")
def found():
    """Case -> its counts. oneDNN's operations are off: with them, fewer kernels are fused on GPUs, so none wrongly."""
    if not has_gpu_kernels():
        pytest.skip("this TensorFlow is built without GPU kernels")
    environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, str(PROGRAM), *EXPECTED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return {line.pop("case"): line for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize("case", EXPECTED)
def test_gpus_get_what_is_right_and_fast(found, case):
    counts = found[case]
    print(case, counts)
    assert "failed" not in counts
    assert counts["misfused"] == 0
    assert {name: counts[name] for name in EXPECTED[case]} == EXPECTED[case]
