"""The programs beside train.py and eval.py. `python -m deeplab.NAME` and the console commands start them."""
