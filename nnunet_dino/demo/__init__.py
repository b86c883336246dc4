"""The phantom data set, and nnU-Net's whole run on it."""
