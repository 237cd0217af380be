"""DeepLab v3 and v3+: atrous backbones, ASPP, decoder; what a network costs, and how it segments an image."""
