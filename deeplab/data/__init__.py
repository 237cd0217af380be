"""From files to batches: `source` reads files, `shards` keeps examples as TFRecords, `input` makes batches."""
