"""Peak memory of a stretch of code: of the accelerator where there is one, else of this process."""

import contextlib
import resource
import sys
from pathlib import Path

import torch


class PeakMemory:
    """Starts at its creation; `bytes` is the peak since then.

    On Linux the kernel's own high-water mark is reset first, so that one run after another in the same process is
    measured on its own. Where it cannot be reset, the peak is that of the process since it started.
    """

    def __init__(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            return
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    @property
    def bytes(self) -> int:
        """The peak since the creation of this object."""
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
        try:
            status = Path("/proc/self/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]) * 1024
        except (OSError, IndexError, ValueError):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak if sys.platform == "darwin" else peak * 1024
