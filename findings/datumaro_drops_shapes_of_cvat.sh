#!/usr/bin/env bash
# Datumaro 1.13.12: ellipses and turned boxes of CVAT's XML are gone after a conversion to COCO, and no line says so.
#
# Expected: four shapes in, four annotations out, or a warning.
# Seen: the polygon, and the box, which has no outline. The ellipse and the box with a rotation are missing; the exit
# status is 0.
# Output: shapes: polygon box ellipse box with rotation
#         annotations: 2, outlines: 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet 'datumaro[cli]==1.13.12'
mkdir -p "$folder/cvat/images"
"$folder/env/bin/python" -c '
import sys
from PIL import Image
Image.new("RGB", (80, 60)).save(sys.argv[1])' "$folder/cvat/images/a.png"
cat >"$folder/cvat/annotations.xml" <<'XML'
<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><size>1</size><mode>annotation</mode><labels><label><name>cat</name></label></labels></task></meta>
  <image id="0" name="a.png" width="80" height="60">
    <polygon label="cat" occluded="0" points="1.0,1.0;20.0,1.0;20.0,20.0" z_order="0"></polygon>
    <box label="cat" occluded="0" xtl="30.0" ytl="5.0" xbr="50.0" ybr="20.0" z_order="0"></box>
    <ellipse label="cat" occluded="0" cx="60.0" cy="40.0" rx="10.0" ry="5.0" z_order="0"></ellipse>
    <box label="cat" occluded="0" xtl="10.0" ytl="30.0" xbr="40.0" ybr="45.0" rotation="30.0" z_order="0"></box>
  </image>
</annotations>
XML
"$folder/env/bin/datum" convert -i "$folder/cvat" -if cvat -f coco_instances -o "$folder/coco" -- --save-media \
    >"$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
{
    echo "shapes: polygon box ellipse box with rotation"
    "$folder/env/bin/python" -c '
import json, pathlib, sys
(path,) = pathlib.Path(sys.argv[1]).glob("annotations/*.json")
found = json.loads(path.read_text())["annotations"]
outlines = sum(bool(each["segmentation"]) for each in found)
print(f"annotations: {len(found)}, outlines: {outlines}")' "$folder/coco"
} | tee "$folder/output"
grep --quiet '^annotations: 2, outlines: 1$' "$folder/output"
