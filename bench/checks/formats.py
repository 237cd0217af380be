"""Small data sets of annotation tools, and what each tool's own package draws for them: the golden files of the tests.

python3 -m venv tools && tools/bin/pip install -r bench/checks/formats.txt
PYTHONPATH=. tools/bin/python bench/checks/formats.py [FORMAT ...]

Writes a folder per format into tests/golden/formats: annotations, images and, in truth/, a PNG of the classes for each
image. The packages are in no lock file and CI does not install them; it compares the readers with the golden files
(tests/test_formats.py).
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "formats"
HEIGHT = 60
WIDTH = 80
LABELS = ("cat", "dog", "void")
INDEX = {"cat": 1, "dog": 2, "void": 255}
"""Classes as the readers number them: in alphabetical order, background first."""


def image(path: Path) -> None:
    """Writes an image of gray noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), "teal").save(path)


def truth(folder: Path, name: str, mask: np.ndarray) -> None:
    """Writes what the tool draws for an image."""
    (folder / "truth").mkdir(exist_ok=True)
    Image.fromarray(mask.astype(np.uint8)).save(folder / "truth" / f"{name}.png")


def outline(rng: np.random.Generator, count: int) -> list[tuple[float, float]]:
    """Corners of a polygon in the image, often one that crosses itself; with two decimals, as tools write them."""
    points = rng.uniform((0, 0), (WIDTH - 1, HEIGHT - 1), (count, 2)).round(2)
    return [tuple(point) for point in points.tolist()]


def blob(rng: np.random.Generator) -> np.ndarray:
    """Some pixels with a hole: bool [HEIGHT, WIDTH]."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    y, x = rng.uniform((15, 15), (HEIGHT - 15, WIDTH - 15))
    distance = np.hypot(rows - y, columns - x) + rng.uniform(0, 3, (HEIGHT, WIDTH))
    return (distance > 4) & (distance < 13)


def rasterized(points: Any) -> np.ndarray:  # noqa: ANN401  anything of pairs, or of x, y, x, y, ...
    """A polygon, drawn by pycocotools."""
    return mask_api.decode(mask_api.frPyObjects([np.ravel(points).tolist()], HEIGHT, WIDTH))[..., 0].astype(bool)


def names(count: int = 3) -> Iterator[tuple[str, np.random.Generator]]:
    """Names of images, and a random generator for each."""
    for number in range(count):
        yield f"img_{number}", np.random.default_rng(number)


def cvat(folder: Path) -> None:
    """Drawn by the calls of CVAT's export of masks, of which only parts are in a package.

    Polygons and boxes by pycocotools, masks by cvat-sdk, ellipses by OpenCV (CVAT 2.x,
    cvat/apps/dataset_manager/formats/transformations.py).
    """
    from cvat_sdk.masks import decode_mask, encode_mask

    lines = [
        "<?xml version='1.0' encoding='utf-8'?>",
        "<annotations>",
        "<version>1.1</version>",
        "<meta><task><labels>",
    ]
    lines += [f"<label><name>{label}</name><color>#ff0000</color></label>" for label in LABELS]
    lines += ["</labels></task></meta>"]
    for number, (name, rng) in enumerate(names(4)):
        subset = "Validation" if number == 3 else "Train"
        image(folder / "images" / subset / f"{name}.png")
        lines.append(f'<image id="{number}" name="{name}.png" subset="{subset}" width="{WIDTH}" height="{HEIGHT}">')
        layers = []
        for z_order in rng.permutation(6).tolist():
            label = str(rng.choice(LABELS))
            common = f'label={quoteattr(label)} source="manual" occluded="0" z_order="{z_order}"'
            left, top, right, bottom = (rng.uniform(3, 25, 4) * (1, 1, 2, 1.6)).round(2).tolist()
            degrees = round(float(rng.uniform(0, 360)), 2)
            if z_order in (0, 3):
                points = outline(rng, 6)
                written = ";".join(f"{x:.2f},{y:.2f}" for x, y in points)
                lines.append(f'<polygon {common} points="{written}"></polygon>')
                pixels = rasterized(points)
            elif z_order in (1, 4):
                right += left
                bottom += top
                turn = f' rotation="{degrees}"' if z_order == 4 else ""
                lines.append(f'<box {common} xtl="{left}" ytl="{top}" xbr="{right}" ybr="{bottom}"{turn}></box>')
                radians = np.radians(degrees if turn else 0)
                corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
                center = corners.mean(0)
                matrix = np.array([(np.cos(radians), -np.sin(radians)), (np.sin(radians), np.cos(radians))])
                pixels = rasterized((center + (corners - center) @ matrix.T).tolist())
            elif z_order == 2:
                place = f'cx="40.4" cy="29.5" rx="{left:.2f}" ry="{top:.2f}" rotation="{degrees}"'
                lines.append(f"<ellipse {common} {place}></ellipse>")
                canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
                cv2.ellipse(canvas, (40, 30), (round(left), round(top)), degrees, 0, 360, 255, thickness=-1)
                pixels = canvas > 0
            else:
                encoded = encode_mask(blob(rng))
                *lengths, x1, y1, x2, y2 = encoded
                lines.append(
                    f'<mask {common} rle="{", ".join(map(str, lengths))}" left="{x1}" top="{y1}" '
                    f'width="{x2 - x1 + 1}" height="{y2 - y1 + 1}"></mask>'
                )
                pixels = decode_mask(encoded, image_width=WIDTH, image_height=HEIGHT)
            layers.append((z_order, INDEX[label], pixels))
        lines.append(
            '<polyline label="cat" points="1,1;20,20" z_order="9"></polyline><points label="dog" points="1,1"/>'
        )
        lines.append("</image>")
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        for _, index, pixels in sorted(layers, key=lambda layer: layer[0]):
            mask[pixels] = index
        truth(folder, name, mask)
    (folder / "annotations.xml").write_text("\n".join([*lines, "</annotations>", ""]))


def label_studio(folder: Path) -> None:
    """Brushes are packed and unpacked by label-studio-sdk. Polygons and rectangles are drawn by pycocotools.

    The polygons are those of its export as COCO, and the corners of rectangles those of its export as YOLO OBB. It
    exports no ellipses: they are drawn here, pixel by pixel.
    """
    from label_studio_sdk.converter import Converter
    from label_studio_sdk.converter.brush import decode_rle, encode_rle
    from label_studio_sdk.converter.utils import convert_annotation_to_yolo_obb

    config = "".join(
        f'<{tag} name="{tag.lower()}" toName="image"><Label value="cat"/></{tag}>'
        for tag in ("PolygonLabels", "RectangleLabels", "EllipseLabels", "BrushLabels")
    )
    converter = Converter(f'<View><Image name="image" value="$image"/>{config}</View>', None)
    common = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "to_name": "image"}
    tasks = []
    minimal = folder.with_name("label_studio_min")
    shutil.rmtree(minimal, ignore_errors=True)
    for number, (name, rng) in enumerate(names(4)):
        results: list[dict[str, Any]] = []
        for kind in rng.permutation(["polygon", "rectangle", "ellipse", "brush"] * 2).tolist():
            label = str(rng.choice(LABELS))
            value: dict[str, Any] = {f"{kind}labels": [label]}
            if kind == "polygon":
                value["points"] = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in outline(rng, 6)]
            elif kind == "rectangle":
                x, y, width, height = rng.uniform((30, 30, 10, 10), (60, 60, 40, 30)).tolist()
                value |= {"x": x, "y": y, "width": width, "height": height, "rotation": float(rng.uniform(0, 360))}
            elif kind == "ellipse":
                x, y, right, down = rng.uniform((30, 30, 5, 5), (60, 60, 20, 30)).tolist()
                value |= {"x": x, "y": y, "radiusX": right, "radiusY": down, "rotation": float(rng.uniform(0, 360))}
            else:
                rgba = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
                rgba[blob(rng)] = (13, 200, 7, 255)
                value |= {"format": "rle", "rle": encode_rle(rgba.ravel())}
            results.append({**common, "from_name": f"{kind}labels", "type": f"{kind}labels", "value": value})
            if kind == "brush":
                pixels = decode_rle(value["rle"]).reshape(HEIGHT, WIDTH, 4)[..., 3] > 0
            elif kind == "ellipse":
                pixels = _pixels_in_ellipse(value)
            elif kind == "rectangle":
                pixels = rasterized(convert_annotation_to_yolo_obb({**value, **common}, normalize=False))
            else:
                pixels = np.zeros((HEIGHT, WIDTH), bool)
            results[-1]["pixels"] = (INDEX[label], pixels)
        task = {"id": number, "data": {"image": f"/data/upload/1/0a1b2c3d-{name}.png"}}
        drawn = [result.pop("pixels") for result in results]
        annotations = [{"id": 2, "created_at": "2026-01-02", "result": results}]
        _write_json(folder / "one.json", [{**task, "annotations": annotations}])
        converter.convert_to_coco(str(folder / "one.json"), str(folder / "tool"), is_dir=False)
        coco = json.loads((folder / "tool" / "result.json").read_text())
        polygons = iter([entry["segmentation"][0] for entry in coco["annotations"] if entry["segmentation"]])
        layers = []
        for result, (index, pixels) in zip(results, drawn, strict=True):
            is_polygon = result["type"] == "polygonlabels"
            layers.append((result["type"], index, rasterized(next(polygons)) if is_polygon else pixels))
        # JSON-MIN puts the regions of a tag together, so that others lie in front.
        tags = list(dict.fromkeys(layer[0] for layer in layers))
        for place, order in ((folder, layers), (minimal, sorted(layers, key=lambda layer: tags.index(layer[0])))):
            image(place / "images" / f"{name}.png")
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            for _, index, pixels in order:
                mask[pixels] = index
            truth(place, name, mask)
        older = {"id": 1, "created_at": "2026-01-01", "result": results[:1]}
        tasks.append({**task, "annotations": [*annotations, older], "predictions": [older]})
    (folder / "one.json").unlink()
    _write_json(folder / "export.json", tasks)
    converter.convert_to_json_min(str(folder / "export.json"), str(folder / "tool"), is_dir=False)
    _write_json(minimal / "export.json", json.loads((folder / "tool" / "result.json").read_text()))
    shutil.rmtree(folder / "tool")


def _pixels_in_ellipse(value: dict[str, Any]) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    angle = np.radians(value["rotation"])
    x = columns - value["x"] * WIDTH / 100
    y = rows - value["y"] * HEIGHT / 100
    along = (x * np.cos(angle) + y * np.sin(angle)) / (value["radiusX"] * WIDTH / 100)
    across = (y * np.cos(angle) - x * np.sin(angle)) / (value["radiusY"] * HEIGHT / 100)
    return along**2 + across**2 <= 1


def supervisely(folder: Path) -> None:
    """Drawn by supervisely's Annotation."""
    import supervisely as sly

    kinds = (sly.Polygon, sly.Bitmap, sly.Rectangle, sly.OrientedBBox, sly.Polyline)
    classes = {(kind, label): sly.ObjClass(label, sly.AnyGeometry) for kind in kinds for label in LABELS}
    meta = sly.ProjectMeta([sly.ObjClass(label, sly.AnyGeometry) for label in LABELS])
    _write_json(folder / "meta.json", meta.to_json())
    for number, (name, rng) in enumerate(names(4)):
        place = folder / ("val" if number == 3 else "train")
        image(place / "img" / f"{name}.png")
        labels = []
        for kind in rng.permutation([0, 0, 0, 1, 1, 2, 3, 4]).tolist():
            label = str(rng.choice(LABELS))
            rows = [sly.PointLocation(y, x) for x, y in outline(rng, 7)]
            if kind == 0:
                holes = [[sly.PointLocation(y, x) for x, y in outline(rng, 4)] for _ in range(number)]
                geometry = sly.Polygon(rows, holes)
            elif kind == 1:
                geometry = sly.Bitmap(blob(rng))
            elif kind == 2:
                top, left = sorted((point.row, point.col) for point in rows[:2])[0]
                geometry = sly.Rectangle(top, left, top + 5, left + 12)
            elif kind == 3:
                geometry = sly.OrientedBBox(20, 20, 33, 45, angle=float(rng.uniform(0, 6)))
            else:
                geometry = sly.Polyline(rows)
            labels.append(sly.Label(geometry, classes[kinds[kind], label]))
        annotation = sly.Annotation((HEIGHT, WIDTH), labels)
        _write_json(place / "ann" / f"{name}.png.json", annotation.to_json())
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        for drawn in labels:
            if not isinstance(drawn.geometry, sly.Polyline):
                drawn.geometry.draw(mask, INDEX[drawn.obj_class.name])
        truth(folder, f"{place.name}_{name}", mask)


def supervisely_voc(folder: Path) -> None:
    """Exported as Pascal VOC by supervisely, which draws a border of 3 pixels around each object, here void."""
    import supervisely as sly
    from supervisely.convert.image.pascal_voc.pascal_voc_helper import sly_project_to_pascal_voc

    classes = {"cat": sly.ObjClass("cat", sly.AnyGeometry, [200, 30, 9]), "dog": sly.ObjClass("dog", sly.AnyGeometry)}
    project = sly.Project(str(folder / "project"), sly.OpenMode.CREATE)
    project.set_meta(sly.ProjectMeta(list(classes.values())))
    dataset = project.create_dataset("ds")
    for name, rng in names(4):
        labels = []
        for kind in (0, 1, 0, 1):
            points = [sly.PointLocation(y, x) for x, y in outline(rng, 5)]
            geometry = sly.Bitmap(blob(rng)) if kind else sly.Polygon(points)
            labels.append(sly.Label(geometry, classes[str(rng.choice(LABELS[:2]))]))
        image(folder / f"{name}.png")
        dataset.add_item_file(f"{name}.png", str(folder / f"{name}.png"), sly.Annotation((HEIGHT, WIDTH), labels))
        (folder / f"{name}.png").unlink()
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        for drawn in labels:
            drawn.geometry.draw_contour(mask, 255, 3)
            drawn.geometry.draw(mask, INDEX[drawn.obj_class.name])
        truth(folder, f"ds_{name}", mask)
    sly_project_to_pascal_voc(project, str(folder / "voc"))
    shutil.rmtree(folder / "project")


def darwin(folder: Path) -> None:
    """Exported as masks by darwin-py. In one file it draws either polygons or a raster layer."""
    from darwin.exporter.formats import mask as masks
    from darwin.utils import parse_darwin_json

    files = []
    for number, (name, rng) in enumerate(names(4)):
        image(folder / "images" / "set" / f"{name}.png")
        annotations: list[dict[str, Any]] = [{"name": "cat", "id": "l", "line": {"path": [{"x": 1, "y": 2}]}}]
        if number % 2:
            layer = np.zeros((HEIGHT, WIDTH), np.uint8)
            for value, label in enumerate(("cat", "dog", "void"), 1):
                layer[blob(rng)] = value
                annotations.append(
                    {"id": f"m{value}", "name": label, "mask": {"sparse_rle": None}, "slot_names": ["0"]}
                )
            changes = np.flatnonzero(np.append(True, np.diff(layer.ravel()) != 0))
            counts = np.diff(np.append(changes, layer.size))
            runs = np.stack([layer.ravel()[changes], counts], 1).ravel().tolist()
            mapping = {f"m{value}": value for value in (1, 2, 3)}
            raster = {"dense_rle": runs, "mask_annotation_ids_mapping": mapping, "total_pixels": layer.size}
            annotations.append({"id": "r", "name": "__raster_layer__", "raster_layer": raster, "slot_names": ["0"]})
        else:
            for place in range(6):
                paths = [[{"x": x, "y": y} for x, y in outline(rng, 7)] for _ in range(1 + place % 3)]
                annotations.append({"id": f"p{place}", "name": str(rng.choice(LABELS)), "polygon": {"paths": paths}})
        slot = {"type": "image", "slot_name": "0", "width": WIDTH, "height": HEIGHT, "source_files": []}
        item = {"name": f"{name}.png", "path": "/set", "slots": [slot]}
        path = folder / "releases" / "latest" / "annotations" / f"{name}.json"
        _write_json(path, {"version": "2.0", "item": item, "annotations": annotations})
        files.append(parse_darwin_json(path, None))
    masks.export(files, folder / "tool", "index")
    lines = (folder / "tool" / "class_mapping.csv").read_text().split()[1:]
    table = np.zeros(256, np.uint8)
    for line in lines[1:]:
        label, _, index = line.partition(",")
        table[int(index)] = INDEX.get(label, 0)  # it counts `__raster_layer__` as a class
    for path in (folder / "tool" / "masks").rglob("*.png"):
        truth(folder, f"set_{path.stem}", table[np.asarray(Image.open(path))])
    shutil.rmtree(folder / "tool")


def panoptic(folder: Path) -> None:
    """Read by Datumaro's functions for panoptic PNGs."""
    from datumaro.util.mask_tools import bgr2index, index2bgr

    categories = [{"id": 200, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 9, "name": "background"}]
    index = {200: 1, 7: 2, 9: 0}
    images = []
    annotations = []
    for number, (name, rng) in enumerate(names()):
        image(folder / "train2017" / f"{name}.png")
        layer = np.zeros((HEIGHT, WIDTH), np.uint32)
        numbers = rng.integers(1, 1 << 24, 7).tolist()
        for value in numbers:
            layer[rasterized(outline(rng, 6))] = value
        path = folder / "annotations" / "panoptic_train2017" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), index2bgr(layer))
        segments = [{"id": value, "category_id": int(rng.choice(list(index))), "iscrowd": 0} for value in numbers]
        images.append({"id": number, "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT})
        annotations.append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
        back = bgr2index(cv2.imread(str(path)))
        mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
        for segment in segments:
            mask[back == segment["id"]] = index[segment["category_id"]]
        truth(folder, name, mask)
    content = {"images": images, "annotations": annotations, "categories": categories}
    _write_json(folder / "annotations" / "panoptic_train2017.json", content)


def segments_ai(folder: Path) -> None:
    """Downloaded and read by segments-ai, with a stand-in for the network."""
    from unittest import mock

    import segments.utils
    from segments.dataset import SegmentsDataset

    categories = [{"id": number, "name": label} for number, label in enumerate(LABELS, 3)]
    samples = []
    files = {}
    for name, rng in names():
        layer = np.zeros((HEIGHT, WIDTH), np.uint32)
        for value in range(1, 8):
            layer[rasterized(outline(rng, 6))] = value * 30
        rgba = np.stack([layer & 255, layer >> 8 & 255, layer >> 16, np.full_like(layer, 255)], -1).astype(np.uint8)
        image(folder / f"{name}.png")
        files[f"http://host/{name}.png"] = (folder / f"{name}.png").read_bytes()
        Image.fromarray(rgba).save(folder / "map.png")
        files[f"http://host/{name}_map.png"] = (folder / "map.png").read_bytes()
        annotations = [{"id": value * 30, "category_id": int(rng.integers(3, 6))} for value in range(1, 8)]
        attributes: dict[str, Any] = {
            "annotations": annotations,
            "segmentation_bitmap": {"url": f"http://host/{name}_map.png"},
        }
        label = {"label_status": "LABELED", "attributes": attributes}
        picture = {"image": {"url": f"http://host/{name}.png"}}
        sample = {"uuid": name, "name": f"{name}.png", "metadata": {}, "attributes": picture}
        samples.append({**sample, "labels": {"ground-truth": label}})
    dataset: dict[str, Any] = {"owner": "me", "name": "set", "task_type": "segmentation-bitmap", "samples": samples}
    dataset |= {"labelsets": [{"name": "ground-truth"}], "task_attributes": {"categories": categories}}
    _write_json(folder / "release.json", {"name": "v1", "dataset": dataset})
    for path in folder.glob("*.png"):
        path.unlink()
    with mock.patch.object(segments.utils.session, "get", lambda url: mock.Mock(content=files[url])):
        loaded = SegmentsDataset(str(folder / "release.json"), segments_dir=str(folder / "segments"))
        for item in loaded:
            mask = segments.utils.get_semantic_bitmap(np.asarray(item["segmentation_bitmap"]), item["annotations"])
            truth(folder, item["name"].removesuffix(".png"), np.array([0, 0, 0, 1, 2, 255])[mask])


def via(folder: Path) -> None:
    """Drawn by pycocotools, since VIA itself draws no masks; ellipses and circles pixel by pixel."""
    images = {}
    for name, rng in names():
        image(folder / f"{name}.png")
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        regions = []
        for kind in ("polygon", "rect", "ellipse", "circle", "polygon", "polyline"):
            label = str(rng.choice(LABELS))
            points = outline(rng, 6)
            shape: dict[str, Any] = {"name": kind}
            x, y, right, down = rng.integers((30, 20, 5, 5), (50, 40, 15, 15)).tolist()
            if kind in ("polygon", "polyline"):
                shape |= {"all_points_x": [x for x, _ in points], "all_points_y": [y for _, y in points]}
                pixels = rasterized(points) if kind == "polygon" else np.zeros((HEIGHT, WIDTH), bool)
            elif kind == "rect":
                shape |= {"x": x, "y": y, "width": right, "height": down}
                pixels = rasterized([x, y, x + right, y, x + right, y + down, x, y + down])
            else:
                turn = 0.7 if kind == "ellipse" else 0.0
                down = down if turn else right
                shape |= {"cx": x, "cy": y} | ({"rx": right, "ry": down, "theta": turn} if turn else {"r": right})
                place = {"x": 100 * x / WIDTH, "y": 100 * y / HEIGHT, "rotation": np.degrees(turn)}
                size = {"radiusX": 100 * right / WIDTH, "radiusY": 100 * down / HEIGHT}
                pixels = _pixels_in_ellipse(place | size)
            mask[pixels] = INDEX[label]
            regions.append({"shape_attributes": shape, "region_attributes": {"label": label}})
        images[f"{name}.png5"] = {"filename": f"{name}.png", "size": 5, "regions": regions}
        truth(folder, name, mask)
    _write_json(folder / "project.json", {"_via_settings": {}, "_via_img_metadata": images, "_via_attributes": {}})


def rle_table(folder: Path) -> None:
    """Unpacked by pycocotools, whose run lengths also go down the columns."""
    rows = ["ImageId,ClassId,EncodedPixels"]
    for name, rng in names():
        image(folder / "images" / f"{name}.png")
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        for label in LABELS:
            encoded = mask_api.encode(np.asfortranarray(blob(rng).astype(np.uint8)))
            flat = mask_api.decode(encoded).ravel(order="F")
            starts = np.flatnonzero(np.diff(np.append(0, flat)) == 1) + 1
            ends = np.flatnonzero(np.diff(np.append(flat, 0)) == -1) + 2 - 1
            runs = " ".join(f"{start} {end - start + 1}" for start, end in zip(starts, ends, strict=True))
            rows.append(f"{name}.png,{label},{runs}")
            mask[mask_api.decode(encoded) > 0] = INDEX[label]
        rows.append(f"{name}.png,cat,")
        truth(folder, name, mask)
    (folder / "train.csv").write_text("\n".join([*rows, ""]))


def parquet(folder: Path) -> None:
    """Written and read by datasets; masks with a palette become TIFFs in the file, others PNGs."""
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(), "label": ImageFeature()})
    for split, first in (("train", 0), ("validation", 2)):
        pictures = []
        masks = []
        for name, rng in list(names(4))[first : first + 2]:
            labels = np.zeros((HEIGHT, WIDTH), np.uint8)
            for value in INDEX.values():
                labels[rasterized(outline(rng, 6))] = value
            picture = Image.fromarray(labels)
            if name in ("img_0", "img_3"):
                picture.putpalette(rng.integers(0, 256, 768).astype(np.uint8).tobytes())
            pictures.append(Image.new("RGB", (WIDTH, HEIGHT), "teal"))
            masks.append(picture)
        dataset = Dataset.from_dict({"image": pictures, "label": masks}, features=features)
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        dataset.to_parquet(path)
        for number, row in enumerate(Dataset.from_parquet(str(path))):
            truth(folder, f"{path.stem}_{number:06d}", np.asarray(row["label"]))
    _write_json(folder / "data" / "id2label.json", {"0": "background", "1": "cat", "2": "dog"})


def _write_json(path: Path, content: Any) -> None:  # noqa: ANN401
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")


TOOLS = (cvat, label_studio, supervisely, supervisely_voc, darwin, panoptic, segments_ai, via, rle_table, parquet)
FORMATS: dict[str, Callable[[Path], None]] = {function.__name__: function for function in TOOLS}


def main() -> None:
    """Writes the golden files of the formats named, or of all."""
    for name in sys.argv[1:] or FORMATS:
        folder = GOLDEN / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        FORMATS[name](folder)
        print(name, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()), "bytes")


if __name__ == "__main__":
    main()
