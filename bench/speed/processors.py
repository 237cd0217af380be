"""Steps and images under settings that stand for other processors, as ratios within one run.

python bench/speed/processors.py [WORDS]      WORDS: only rows with them, as in "an image"

`AVX2` limits oneDNN, ours and PyTorch's, by ONEDNN_MAX_CPU_ISA; the rest of TensorFlow, and ONNX Runtime, keep what the
processor has. `without oneDNN` is TF_ENABLE_ONEDNN_OPTS=0. The environment variable TORCH_PYTHON names a Python with
torch, if this one has none. Each figure is measured in a process of its own; those of a row take turns.
"""

import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from common import end_processes, in_process, pytorch, ratio, report, take_turns

import deeplab
from deeplab import cpu_kernels

DEFAULT: dict[str, str] = {}
WITHOUT = {"TF_ENABLE_ONEDNN_OPTS": "0"}
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
CLASSES = tuple(map(str, range(21)))
ROUNDS = 5

Measure = Callable[[], float]


def ours(setting: Mapping[str, str], *arguments: object) -> Measure:
    """A measurement of bench/speed/one_processor.py under a setting."""
    measure = in_process(
        [sys.executable, "one_processor.py", *map(str, arguments)],
        os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"} | dict(setting),
    )
    assert measure, arguments
    return measure


def torch(setting: Mapping[str, str], batch_size: int) -> Measure | None:
    """A step of PyTorch's ResNet-50 at 384x384 under a setting."""
    before = dict(os.environ)
    os.environ.update(setting)
    measure = pytorch("pytorch_step.py", "float32", str(batch_size), "384", "16", "1")
    os.environ.clear()
    os.environ.update(before)
    return measure


def exported(backbone: str, folder: Path) -> Path:
    """An export of this network to ONNX, from random weights."""
    from deeplab.commands.export.onnx import write_onnx  # noqa: PLC0415
    from deeplab.commands.export.saved_model import Segmenter  # noqa: PLC0415

    path = folder / f"{backbone}.onnx"
    write_onnx(Segmenter(deeplab.build_deeplabv3(deeplab.ModelConfig(CLASSES, backbone))), path)
    return path


def rows(folder: Path) -> list[tuple[str, Callable[[], Measure | None], Callable[[], Measure | None]]]:
    """What is compared: words, and how to start what stands above and below the line."""
    demo = ("step", "mobilenet_v2", 96, 8)
    resnet = ("image", "resnet50", 375, 500)
    mobile = ("image", "mobilenet_v2", 120, 160)
    table: list[tuple[str, Callable[[], Measure | None], Callable[[], Measure | None]]] = [
        ("the demo's step, without oneDNN over default", lambda: ours(WITHOUT, *demo), lambda: ours(DEFAULT, *demo)),
        ("the demo's step, AVX2 over default", lambda: ours(AVX2, *demo), lambda: ours(DEFAULT, *demo)),
    ]
    for name, setting in (("AVX2", AVX2), ("default", DEFAULT)):
        for batch in (2, 4):
            table.append(
                (
                    f"step, ResNet-50, 384x384, batch {batch}: PyTorch over ours, both {name}",
                    lambda setting=setting, batch=batch: torch(setting, batch),  # type: ignore[misc]
                    lambda setting=setting, batch=batch: ours(setting, "step", "resnet50", 384, batch),  # type: ignore[misc]
                )
            )
    for name, setting in (("AVX2", AVX2), ("without oneDNN", WITHOUT), ("default", DEFAULT)):
        for kind, backbone, height, width in (resnet, mobile):
            table.append(
                (
                    f"an image, {backbone}, {width}x{height}: ours, {name}, over ONNX Runtime",
                    lambda setting=setting, image=(kind, backbone, height, width): ours(setting, *image),  # type: ignore[misc]
                    lambda backbone=backbone, height=height, width=width: ours(  # type: ignore[misc]
                        DEFAULT, "onnx", folder / f"{backbone}.onnx", height, width
                    ),
                )
            )
    for name, setting in (("default", DEFAULT), ("AVX2", AVX2)):
        table.append(
            (
                f"evaluation of 60 images of 60 sizes over 60 of one size, {name}",
                lambda setting=setting: ours(setting, "sizes", 60),  # type: ignore[misc]
                lambda setting=setting: ours(setting, "sizes", 1),  # type: ignore[misc]
            )
        )
    return table


def main() -> None:
    """Prints the table."""
    print(cpu_kernels.kernels()[0], flush=True)
    results: list[tuple[str, float, float, float]] = []
    with tempfile.TemporaryDirectory() as name:
        for backbone in ("resnet50", "mobilenet_v2"):
            exported(backbone, Path(name))
        for words, above, below in rows(Path(name)):
            if sys.argv[1:] and sys.argv[1] not in words:
                continue
            end_processes()
            measures = {"above": above(), "below": below()}
            if None in measures.values():
                continue
            measured = take_turns({each: measure for each, measure in measures.items() if measure}, ROUNDS)
            medians = [statistics.median(values) for values in measured.values()]
            results.append((words, *medians, ratio(measured["above"], measured["below"])))  # type: ignore[arg-type]
            print(results[-1], flush=True)
    header = ("what", "above [s]", "below [s]", "ratio")
    report("processors", header, results, {words: value for words, *_, value in results})


if __name__ == "__main__":
    main()
