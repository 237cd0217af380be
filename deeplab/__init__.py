"""DeepLab v3 (arXiv 1706.05587) semantic segmentation with TensorFlow 2 and Keras 3."""
