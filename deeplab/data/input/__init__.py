"""Shards to batches: the tf.data chains of training and of evaluation, with augmentation and sampling."""
