"""How far the memory estimate of `loraweave train --dry-run` is off: `python -m memory`."""
