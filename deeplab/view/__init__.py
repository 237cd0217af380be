"""What people look at: pictures of masks, TensorBoard's panel, the report, the page of a data set."""
