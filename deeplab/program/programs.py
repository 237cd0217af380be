"""The settings classes of each program, by the command that starts it. Import it in the project's root folder."""

import eval as eval_program
import train
from deeplab import export, predict
from deeplab.data import polygons, sbd
from deeplab.settings import Classes

PROGRAMS: dict[str, Classes] = {
    "train.py": train.SETTINGS,
    "eval.py": eval_program.SETTINGS,
    "python -m deeplab.predict": predict.SETTINGS,
    "python -m deeplab.export": export.SETTINGS,
    "python -m deeplab.data.polygons": polygons.SETTINGS,
    "python -m deeplab.data.sbd": sbd.SETTINGS,
}
