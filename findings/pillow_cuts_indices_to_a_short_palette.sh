#!/usr/bin/env bash
# Pillow 12.3.0: a mask with a palette of 16 colors is saved as a PNG of 4 bits, and its index 255 becomes 15.
#
# Expected: an error for an index that the palette does not have, or a PNG of 8 bits.
# Seen: with 16, 4 or 2 colors, 255 (void, in masks for segmentation) is read back as 15, 3 or 1: another class.
# Output: 16 colors: 255 becomes 15
#         4 colors: 255 becomes 3
#         2 colors: 255 becomes 1
#         256 colors: 255 becomes 255
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet pillow==12.3.0
cat >"$folder/run.py" <<'PYTHON'
import io

from PIL import Image

for colors in (16, 4, 2, 256):
    mask = Image.new("P", (1, 1), 255)
    mask.putpalette([0, 0, 0] * colors)
    content = io.BytesIO()
    mask.save(content, "PNG")
    print(f"{colors} colors: 255 becomes {Image.open(content).getpixel((0, 0))}")
PYTHON
"$folder/env/bin/python" "$folder/run.py" | tee "$folder/output"
grep --quiet '^16 colors: 255 becomes 15$' "$folder/output"
grep --quiet '^4 colors: 255 becomes 3$' "$folder/output"
grep --quiet '^2 colors: 255 becomes 1$' "$folder/output"
