"""
OpenCV made safe and repeatable: `from reference_app.opencv import cv2`.

OpenCV reads its limit on pixels from the environment once, when it is imported, so the variable
must be there before; that is why this module sets one on import. Importing it takes about 0.15 s.
"""

from __future__ import annotations

import os
import re

_LIMIT_VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"
_DEFAULT_LIMIT = 64 * 1024 * 1024
"""Pixels. A decoded picture of this size takes 192 MiB."""
_UNITS = {"": 1, "KB": 1024, "MB": 1024 * 1024}


class OpenCVUnusableError(ImportError):
    """OpenCV is absent, lacks the face detector, or would abort because of a bad variable."""


def _pixel_limit() -> int:
    """Give the limit in force; set the variable where it is unset."""
    text = os.environ.get(_LIMIT_VARIABLE) or str(_DEFAULT_LIMIT)
    # OpenCV ends the process (std::terminate) on a value that it cannot read.
    match = re.fullmatch(r"([1-9][0-9]{0,11})(|KB|Kb|kb|MB|Mb|mb)", text)
    if match is None:
        raise OpenCVUnusableError(
            f"{_LIMIT_VARIABLE} is {text!r}: expected a number of pixels such as {_DEFAULT_LIMIT}"
        )
    os.environ[_LIMIT_VARIABLE] = text
    return int(match[1]) * _UNITS[match[2].upper()]


MAX_PIXELS = _pixel_limit()
"""Largest picture, in pixels, that is decoded."""

try:
    import cv2 as cv2
    import cv2.data
except ImportError as error:
    raise OpenCVUnusableError(
        f"OpenCV cannot be imported ({error}): pip install '.[reference]' in the clone"
    ) from error

CASCADE = os.path.join(cv2.data.haarcascades, "haarcascade_frontalface_default.xml")
"""The frontal-face cascade; its file is in the OpenCV wheel."""

# OpenCV 5 moved the detector to contrib, and none of its wheels has the cascades
# (github.com/opencv/opencv-python/issues/1259).
if not hasattr(cv2, "CascadeClassifier") or not os.path.exists(CASCADE):
    raise OpenCVUnusableError(
        f"OpenCV {cv2.__version__} has no Haar face detector: pip install 'opencv-python-headless>=4.14,<5'"
    )

# With more threads the order of boxes changes from run to run, and a job has one vCPU anyway.
cv2.setNumThreads(1)

# Our own one line names the image. What libpng and libjpeg write themselves stays: libjpeg's
# "Corrupt JPEG data" is the only trace of damage that it decodes around.
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
