"""OpenCV, with an error that says what to install where it cannot be loaded.

The wheel ``opencv-python`` needs libraries of a desktop, such as libGL, which servers and containers often lack.
Import this module in functions, since OpenCV takes a while to load.
"""

try:
    import cv2 as cv2
except ImportError as error:
    raise ImportError(
        f"OpenCV cannot be loaded: {error}. Without a desktop its other wheel is enough: pip uninstall -y "
        "opencv-python && pip install opencv-python-headless. Or install the libraries that it needs, on Debian "
        "and Ubuntu: apt install libgl1 libglib2.0-0."
    ) from error
