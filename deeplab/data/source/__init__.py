"""Files to examples: data sets in VOC's layout, their images, masks and classes, and other tools' annotations."""
