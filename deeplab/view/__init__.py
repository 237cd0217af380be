"""What people look at: pictures of masks, TensorBoard's panel, the report and its charts."""
