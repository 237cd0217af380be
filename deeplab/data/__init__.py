"""From VOC files to batches: download, shards, augmentation, the tf.data chains."""
