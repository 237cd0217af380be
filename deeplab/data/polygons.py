"""The old name of `deeplab.data.convert`, with the same flags. To be deleted in 0.4 (CHANGELOG.md).

python -m deeplab.data.polygons --labelme_dir=drawn --voc_dir=mydata
python -m deeplab.data.polygons --coco_json=instances.json --image_dir=images --voc_dir=mydata
"""

from deeplab.commands.convert import command

if __name__ == "__main__":
    command()
