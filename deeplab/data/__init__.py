"""The way of the data: files (`source`), TFRecord shards (`shards`), batches (`input`)."""
