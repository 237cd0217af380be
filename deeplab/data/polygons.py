"""The old name of `deeplab.data.convert`, with the same flags.

python -m deeplab.data.polygons --labelme_dir=drawn --voc_dir=mydata
python -m deeplab.data.polygons --coco_json=instances.json --image_dir=images --voc_dir=mydata
"""

from deeplab.data.convert import SETTINGS, main

if __name__ == "__main__":
    from deeplab.program.run import run

    run(main, SETTINGS, __doc__)
