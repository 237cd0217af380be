#!/usr/bin/env bash
# Supervisely's SDK 6.74.51: its export as Pascal VOC has masks of objects in SegmentationClass, and masks of classes in
# SegmentationObject.
#
# Expected: as in VOC, all objects of a class have one color in SegmentationClass, that of colors.txt.
# Seen: two objects of the class `cat` have two random colors there; in SegmentationObject both have the color of `cat`.
# Output: SegmentationClass: 2 colors of objects, that of cat: no
#         SegmentationObject: 1 colors of objects, that of cat: yes
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet supervisely==6.74.51 lxml==6.1.3
cat >"$folder/run.py" <<'PYTHON'
import pathlib
import sys

import numpy as np
import supervisely as sly
from PIL import Image
from supervisely.convert.image.pascal_voc.pascal_voc_helper import sly_project_to_pascal_voc

CAT = (200, 30, 9)
NEITHER = {(0, 0, 0), (224, 224, 192)}  # background and the border of objects
folder = pathlib.Path(sys.argv[1])
cat = sly.ObjClass("cat", sly.Bitmap, list(CAT))
project = sly.Project(str(folder / "project"), sly.OpenMode.CREATE)
project.set_meta(sly.ProjectMeta([cat]))
labels = []
for left in (5, 45):
    pixels = np.zeros((60, 80), bool)
    pixels[10:50, left : left + 30] = True
    labels.append(sly.Label(sly.Bitmap(pixels), cat))
Image.new("RGB", (80, 60)).save(folder / "a.png")
project.create_dataset("ds").add_item_file("a.png", str(folder / "a.png"), sly.Annotation((60, 80), labels))
sly_project_to_pascal_voc(project, str(folder / "voc"))
for name in ("SegmentationClass", "SegmentationObject"):
    (path,) = (folder / "voc").rglob(f"{name}/*.png")
    colors = {tuple(color) for row in np.asarray(Image.open(path).convert("RGB")).tolist() for color in row} - NEITHER
    print(f"{name}: {len(colors)} colors of objects, that of cat: {'yes' if CAT in colors else 'no'}")
PYTHON
"$folder/env/bin/python" "$folder/run.py" "$folder" >"$folder/output" 2>"$folder/stderr" || { cat "$folder/stderr"; exit 1; }
grep '^Segmentation' "$folder/output"
grep --quiet '^SegmentationClass: 2 colors of objects, that of cat: no$' "$folder/output"
grep --quiet '^SegmentationObject: 1 colors of objects, that of cat: yes$' "$folder/output"
