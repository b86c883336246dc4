"""Gives the memory of slices back when nnU-Net has predicted an image."""

from __future__ import annotations

import functools
from typing import Any

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_dino.networks.slices import SliceEncoder


def forget_slices_after_every_image() -> None:
    """Makes nnU-Net's predictor empty the memory of slices at the end of every image and fold, also of one that failed.

    A network forgets when the next image begins. It cannot know which window was the last, so a process that waits for
    further images would hold the slices of the last one meanwhile.
    """
    predict = nnUNetPredictor.predict_sliding_window_return_logits
    if hasattr(predict, "forgets_slices"):
        return

    @functools.wraps(predict)
    def predict_and_forget(predictor: nnUNetPredictor, *args: Any, **kwargs: Any) -> Any:
        try:
            return predict(predictor, *args, **kwargs)
        finally:
            for module in predictor.network.modules():
                if isinstance(module, SliceEncoder):
                    module.reuse.forget()

    predict_and_forget.forgets_slices = True  # type: ignore[attr-defined]
    nnUNetPredictor.predict_sliding_window_return_logits = predict_and_forget
