"""From a volume to slices, to tokens, to feature maps that a U-Net can take in."""
