"""How a slice is shown as colours, by name; apart from the tensors, so that the command line need not import torch."""

REPEAT, WINDOWS, NEIGHBOURS = "repeat", "windows", "neighbours"
RGB = (REPEAT, WINDOWS, NEIGHBOURS)
