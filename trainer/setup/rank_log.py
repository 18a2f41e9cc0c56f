"""What libraries may write into a rank's log."""

import sys
import warnings


def drop_deprecation_warnings() -> None:
    """Drops the deprecation warnings of libraries in this process, unless Python was given warning options (-W,
    PYTHONWARNINGS).

    Nobody who trains can act on them, and under ZeRO-3 DeepSpeed (0.19.8) with torch 2.13 writes two at each layer.
    """
    if not sys.warnoptions:
        for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", category)
