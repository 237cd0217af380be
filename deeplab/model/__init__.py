"""DeepLab v3: atrous backbones and the ASPP head."""
