"""DeepLab v3 (arXiv 1706.05587) semantic segmentation with TensorFlow 2 and Keras 3."""

import os

# Start-up notes of TensorFlow's C++ side go, its warnings stay. It reads this when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
