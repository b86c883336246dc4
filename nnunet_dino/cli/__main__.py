"""``python -m nnunet_dino.cli``."""

from nnunet_dino.cli.main import run

if __name__ == "__main__":
    run()
