"""nnU-Net planner classes; installed as ``nnunet_dino.planners``."""
