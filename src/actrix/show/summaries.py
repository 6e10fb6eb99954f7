"""What a log takes besides numbers, under Stable-Baselines3's names, as TensorBoard's summaries."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

BINS = 64
"""Of a histogram."""


@dataclasses.dataclass(frozen=True)
class Image:
    """An image to record, `dataformats` its axes: uint8, or floats in [0, 1]."""

    image: Any
    dataformats: str = "HWC"

    def values(self, key: str) -> list[Any]:
        """It as a summary's values."""
        from tensorboardX.summary import image

        return list(image(key, np.asarray(self.image), dataformats=self.dataformats).value)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A Matplotlib figure to record, drawn at once; `close` it then."""

    figure: Any
    close: bool = True

    def values(self, key: str) -> list[Any]:
        """It as a summary's values."""
        from tensorboardX.utils import figure_to_image

        return Image(figure_to_image(self.figure, self.close), "CHW").values(key)


@dataclasses.dataclass(frozen=True)
class HParam:
    """Settings, and the names of the metrics to compare them by, for TensorBoard's page of hyperparameters."""

    hparam_dict: dict[str, Any]
    metric_dict: dict[str, float]

    def values(self, key: str) -> list[Any]:
        """It as a summary's values; they have names of their own."""
        from tensorboardX.summary import hparams

        return [v for part in hparams(self.hparam_dict, self.metric_dict) for v in part.value]


class Video:
    """Not written to logs: refused with what is there instead."""

    def __init__(self, frames: Any, fps: float = 40):
        raise ValueError("a Video is not logged here: `actrix video` writes a file; or record an Image.")


def text_of(value: str) -> str:
    """Text that can be written."""
    return value.encode(errors="replace").decode()


def summary_values(key: str, value: Any) -> list[Any] | None:
    """A summary's values of text, an array (a histogram of what is finite), an Image, a Figure, an HParam.

    None for anything else, a number or an array of one among them.
    """
    from tensorboardX import summary

    if isinstance(value, str):
        return list(summary.text(key, text_of(value)).value)
    if isinstance(value, Image | Figure | HParam):
        return value.values(key)
    if not hasattr(value, "__array__") or np.asarray(value).size < 2 or not _real(np.asarray(value).dtype):
        return None
    numbers = np.asarray(value).astype(float).ravel()
    finite = numbers[np.isfinite(numbers)]
    return list(summary.histogram(key, finite, BINS).value) if finite.size else []


def _real(dtype: np.dtype) -> bool:
    # JAX's bfloat16 and float8 have kind "V".
    return dtype.kind in "biufV" and not dtype.fields
