"""A published network becomes a run, and others start from it; a backbone takes the conventions of its weights."""

import ast
import json
import logging
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import GOLDEN
from forked import run
from pth import write_pth
from small_run import assert_one_line

from deeplab.api import load
from deeplab.data.source import voc
from deeplab.errors import UsageError
from deeplab.files import digest
from deeplab.labels import ColoredNames
from deeplab.model.backbone import atrous_backbone
from deeplab.model.deeplabv3 import backbone_of, build_deeplabv3, build_to_train
from deeplab.model.published.names import torch_backbone
from deeplab.model.published.recognition import recognize
from deeplab.model.published.transfer import leaves
from deeplab.model.settings import InitSettings, ModelConfig
from deeplab.resume import config_of_start
from deeplab.run import run_folder
from deeplab.run.checkpoints import best_path, has_auxiliary_head
from deeplab.run.settings import RunSettings

sys.path.insert(0, str(GOLDEN))
from draw import draw_torch, image
from research_deeplab import Network

NAMES = ("background", "cat", "dog", "cow", "bird")


@pytest.fixture(scope="module")
def research(tmp_path_factory):
    """The folder of a checkpoint of research/deeplab with VOC's classes, the logits of an image, and its run."""
    folder = tmp_path_factory.mktemp("research")
    network = Network(len(voc.CLASS_NAMES), 16)
    logits = network.logits(image(65, 97))
    network.save(folder / "model.ckpt-30000")
    done = run("-m", "deeplab.import_weights", f"{folder}/model.ckpt-30000", f"--model_dir={folder}/run")
    return folder, logits, done


@pytest.fixture(scope="module")
def torchvision(tmp_path_factory):
    """The run of torchvision's MobileNetV3 with weights drawn by name, and its tensors."""
    folder = tmp_path_factory.mktemp("torchvision")
    with np.load(GOLDEN / "published.npz") as golden:
        lines = [str(line).split(" ", 1) for line in golden["torchvision/mobilenet_v3_large/tensors"]]
    tensors = {name: draw_torch(name, ast.literal_eval(shape)) for name, shape in lines}
    with pytest.MonkeyPatch.context() as patch:
        write_pth(folder / "file.pth", tensors, patch)
    (folder / "names.txt").write_text("\n".join(NAMES) + "\n")
    names = f"--class_names={folder}/names.txt"
    run("-m", "deeplab.import_weights", f"{folder}/file.pth", names, f"--model_dir={folder}/run")
    return folder / "run", tensors


def test_a_checkpoint_of_others_becomes_a_run(research):
    folder, logits, done = research
    assert "DeepLab v3 of research/deeplab on mobilenet_v2, 21 classes" in done.stderr
    model = load(folder / "run")
    assert model.class_names == voc.CLASS_NAMES
    np.testing.assert_array_equal(model.segment(image(65, 97)), np.argmax(logits, -1))
    config = json.loads((folder / "run" / "model.json").read_text())
    assert (config["backbone_family"], config["head_family"], config["atrous_rates"]) == ("research_deeplab",) * 2 + (
        [],
    )


def test_nothing_is_overwritten_and_nothing_trained_over(research, torchvision):
    folder, _, _ = research
    before = {path: digest(path, "sha256") for path in sorted((folder / "run").rglob("*")) if path.is_file()}
    again = run("-m", "deeplab.import_weights", folder, f"--model_dir={folder}/run", expect=2)
    assert_one_line(again, r"--model_dir=.*/run: exists already; choose another folder")
    options = {ModelConfig: ModelConfig(), RunSettings: RunSettings(folder / "run"), InitSettings: InitSettings()}
    with pytest.raises(UsageError, match=r"holds imported weights; train in another folder, with --init_checkpoint="):
        config_of_start(options, ColoredNames(("a", "b")))
    assert {path: digest(path, "sha256") for path in before} == before


def test_the_file_of_a_published_network_is_recorded(torchvision):
    folder, _ = torchvision
    record = json.loads((folder / "import.json").read_text())
    assert record["network"] == "torchvision's DeepLab v3"
    assert record["sha256"] == digest(folder.parent / "file.pth", "sha256")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ((), 2, "name one file of weights"),
        (("/nowhere.pth",), 1, "/nowhere.pth: no such file, and no checkpoint of TensorFlow"),
        ((GOLDEN / "weights.pth",), 1, r"6 tensors, the first is bias; they are of none of the networks"),
        ((GOLDEN / "weights_legacy.pth",), 1, r"python -c "),
        (("{0}/file.pth", "--class_names={0}/three.txt"), 2, r"three\.txt: 3 classes, the network has 5"),
        (("{0}/file.pth", "--output_stride=32"), 2, "--output_stride=32: these networks have 8 or 16"),
    ],
)
def test_what_cannot_be_imported_ends_in_one_line(torchvision, tmp_path, arguments, status, words):
    folder = torchvision[0].parent
    (folder / "three.txt").write_text("a\nb\nc\n")
    arguments = [str(argument).format(folder) for argument in arguments]
    done = run("-m", "deeplab.import_weights", *arguments, f"--model_dir={tmp_path}/run", expect=status)
    assert_one_line(done, words)
    assert not (tmp_path / "run").exists()


def test_classes_go_on_by_name_and_the_auxiliary_head_comes_along(torchvision, caplog):
    caplog.set_level(logging.INFO, "deeplab")
    folder, tensors = torchvision
    assert has_auxiliary_head(best_path(folder / "checkpoints"))
    wanted = ("dog", "new", "background")
    options = {
        ModelConfig: ModelConfig(backbone="mobilenet_v3_large", atrous_rates=(12, 24, 36)),
        RunSettings: RunSettings(folder / "nowhere"),
        InitSettings: InitSettings("none", init_checkpoint=folder),
    }
    config = config_of_start(options, ColoredNames(wanted))
    assert (config.backbone_family, config.head_family) == ("torchvision", "torchvision")
    _, model = build_to_train(config, options[InitSettings], has_weights=True, auxiliary_head=True)
    random = model.get_layer("logits").kernel.numpy()
    run_folder.init_weights(model, folder, wanted)
    assert f"{len(model.weights)} of {len(model.weights)} weights from" in caplog.text
    for layer, name in (("logits", "classifier.4.weight"), ("auxiliary_logits", "aux_classifier.4.weight")):
        kernel = model.get_layer(layer).kernel.numpy()[0, 0]
        expected = tensors[name][:, :, 0, 0].T
        np.testing.assert_array_equal(kernel[:, [0, 2]], expected[:, [NAMES.index("dog"), 0]])
    np.testing.assert_array_equal(model.get_layer("logits").kernel[..., 1], random[..., 1])
    auxiliary = model.get_layer("auxiliary_conv").kernel
    np.testing.assert_array_equal(np.transpose(auxiliary, (3, 2, 0, 1)), tensors["aux_classifier.0.weight"])


def test_a_backbone_takes_the_conventions_of_its_weights_and_a_resumed_run_keeps_them(tmp_path, monkeypatch):
    names = torch_backbone("mobilenet_v2")
    tensors = {"classifier.1.weight": np.ones((4, 2), np.float32)}
    for layer in leaves(atrous_backbone("mobilenet_v2", 16, None)):
        for variable in layer.weights:
            axes = names.layout.axes(layer, len(variable.shape))
            shape = tuple(variable.shape[axis] for axis in np.argsort(axes))
            name = names.layout.name(names.module(layer.name), layer, variable.name)
            tensors[name] = draw_torch(name, shape)
    write_pth(tmp_path / "file.pth", tensors, monkeypatch)
    init = InitSettings(str(tmp_path / "file.pth"))
    options = {
        ModelConfig: ModelConfig(backbone="mobilenet_v2"),
        RunSettings: RunSettings(tmp_path / "run"),
        InitSettings: init,
    }
    config = config_of_start(options, ColoredNames(("a", "b")))
    assert (config.backbone_family, config.head_family) == ("torchvision", "keras")
    model, _ = build_to_train(config, init, has_weights=False, auxiliary_head=False)
    backbone = backbone_of(model)
    kernel = np.transpose(tensors["features.2.conv.1.0.weight"], (2, 3, 0, 1))
    np.testing.assert_array_equal(backbone.get_layer("block_1_depthwise").kernel, kernel)
    assert backbone.get_layer("bn_Conv1").epsilon == 1e-5

    # Its file is gone; the run knows.
    (tmp_path / "file.pth").unlink()
    run_folder.record_run(tmp_path / "run", config, "")
    tf.train.CheckpointManager(tf.train.Checkpoint(model=model), tmp_path / "run/checkpoints/latest", 1).save()
    assert config_of_start(options, ColoredNames(("a", "b"))) == config
    fresh, again, _ = run_folder.load_model(tmp_path / "run")
    assert again == config
    pixels = image(49, 66)[np.newaxis]
    np.testing.assert_array_equal(fresh(pixels), model(pixels))


def test_a_backbone_of_another_depth_is_refused_with_both_shapes(tmp_path, monkeypatch):
    write_pth(tmp_path / "file.pth", {"conv1.weight": np.ones((64, 3, 3, 3), np.float32)}, monkeypatch)
    config = ModelConfig(("a", "b"), "resnet50", backbone_family="torchvision")
    words = r"conv1\.weight has the shape \(64, 3, 3, 3\), and conv1_conv needs \(64, 3, 7, 7\)"
    with pytest.raises(Exception, match=f"^--backbone_weights=.*file.pth: {words}$"):
        build_deeplabv3(config, str(tmp_path / "file.pth"))


def test_safetensors_have_the_same_tensors(tmp_path, monkeypatch):
    numpy = pytest.importorskip("safetensors.numpy")
    from deeplab.model.published.files import read_tensors

    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([7], np.int64)}
    numpy.save_file(tensors, tmp_path / "file.safetensors")
    write_pth(tmp_path / "file.pth", tensors, monkeypatch)
    for ending in ("safetensors", "pth"):
        read = read_tensors(tmp_path / f"file.{ending}")
        assert sorted(read) == ["a", "b"]
        for name, array in tensors.items():
            np.testing.assert_array_equal(read[name], array)


def test_without_its_package_a_safetensors_file_ends_in_one_line(tmp_path, monkeypatch):
    from deeplab.model.published.files import read_tensors

    (tmp_path / "file.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UsageError, match=r"safetensors is not installed: pip install '\.\[weights\]'"):
        read_tensors(tmp_path / "file.safetensors")


def test_an_encoder_of_another_depth_is_not_taken_for_a_resnet():
    tensors = {"segmentation_head.0.weight": np.ones((2, 256, 1, 1)), "decoder.aspp.0.x": np.ones(1)}
    with pytest.raises(Exception, match="its backbone is none of resnet50, resnet101, resnet152"):
        recognize(tensors, None, "file")
