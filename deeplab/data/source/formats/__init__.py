"""Annotation formats of other tools: one reader per format, and one writer of VOC's layout."""
