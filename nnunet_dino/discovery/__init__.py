"""How stock nnU-Net finds the trainers and planners of this package."""
