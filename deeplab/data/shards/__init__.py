"""Examples to TFRecord shards, each split with a manifest; they are written once, and then only read."""
