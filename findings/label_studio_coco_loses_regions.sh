#!/usr/bin/env bash
# label-studio-sdk 2.1.2: its export as COCO has no ellipses and no brushes, and turned rectangles without their angle.
#
# Expected: an annotation for each of the four regions, with an outline.
# Seen: two annotations. The rectangle turned by 30 degrees became an upright box with `"segmentation": []`; for the
# ellipse and the brush, there is only a warning that does not name them: "Unknown label type or labels are empty".
# Output: regions: polygon, turned rectangle, ellipse, brush
#         annotations: 2, outlines: 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet label-studio-sdk==2.1.2
cat >"$folder/run.py" <<'PYTHON'
import json
import pathlib
import sys

import numpy as np
from label_studio_sdk.converter import Converter
from label_studio_sdk.converter.brush import encode_rle

folder = pathlib.Path(sys.argv[1])
pixels = np.zeros((60, 80, 4), np.uint8)
pixels[10:30, 10:30] = 255
values = {
    "polygon": {"points": [[10, 10], [50, 10], [50, 50]]},
    "rectangle": {"x": 40, "y": 40, "width": 20, "height": 10, "rotation": 30},
    "ellipse": {"x": 50, "y": 50, "radiusX": 10, "radiusY": 5, "rotation": 0},
    "brush": {"format": "rle", "rle": encode_rle(pixels.ravel())},
}
results = [
    {
        "from_name": kind,
        "to_name": "image",
        "type": f"{kind}labels",
        "original_width": 80,
        "original_height": 60,
        "value": {**value, f"{kind}labels": ["cat"]},
    }
    for kind, value in values.items()
]
tags = "".join(
    f'<{kind.title()}Labels name="{kind}" toName="image"><Label value="cat"/></{kind.title()}Labels>' for kind in values
)
task = {"id": 1, "data": {"image": "a.png"}, "annotations": [{"id": 1, "result": results}]}
(folder / "export.json").write_text(json.dumps([task]))
converter = Converter(f'<View><Image name="image" value="$image"/>{tags}</View>', None)
converter.convert_to_coco(str(folder / "export.json"), str(folder / "coco"), is_dir=False)
found = json.loads((folder / "coco" / "result.json").read_text())["annotations"]
print("regions: polygon, turned rectangle, ellipse, brush")
print(f"annotations: {len(found)}, outlines: {sum(bool(each['segmentation']) for each in found)}")
PYTHON
"$folder/env/bin/python" "$folder/run.py" "$folder" 2>"$folder/stderr" | tee "$folder/output" || { cat "$folder/stderr"; exit 1; }
grep --quiet '^annotations: 2, outlines: 1$' "$folder/output"
