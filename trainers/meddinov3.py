"""Where trainers were before they were made from one table; for subclasses that import them from here."""

from nnunet_dino.trainers import __dir__, __getattr__  # noqa: F401
