"""The settings classes of each program, by the command that starts it. Import it in the project's root folder."""

import eval as eval_program
import train
from deeplab import export, look, predict
from deeplab.app import __main__ as app
from deeplab.data import convert, sbd
from deeplab.settings import Classes

PROGRAMS: dict[str, Classes] = {
    "train.py": train.SETTINGS,
    "eval.py": eval_program.SETTINGS,
    "python -m deeplab.predict": predict.SETTINGS,
    "python -m deeplab.export": export.SETTINGS,
    "python -m deeplab.app": app.SETTINGS,
    "python -m deeplab.look": look.SETTINGS,
    "python -m deeplab.data.convert": convert.SETTINGS,
    "python -m deeplab.data.sbd": sbd.SETTINGS,
}
