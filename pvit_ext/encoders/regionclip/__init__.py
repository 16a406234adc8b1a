"""RegionCLIP (arXiv 2112.09106): a ResNet that reads the whole image, RoIAlign, attention pooling."""
