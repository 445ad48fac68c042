"""In which order rows go to the processes of a run, so that each is seen once by one of them."""

from collections.abc import Iterator

from torch.utils.data import Sampler

from loraweave.data.plan import BLANK, RowPlan


class EpochSampler(Sampler[int]):
    """The rows of the plan's current epoch, in the plan's order.

    accelerate deals batches out to processes in turn, and where they do not come out even it shows rows a second time.
    So the last ones are filled up with blank rows, which have no token, and every process gets its part of the rest.

    Args:
        plan: the rows.
        batch_size: rows of a batch of one process.
        processes: how many there are; one takes a last batch that is smaller.
    """

    def __init__(self, plan: RowPlan, batch_size: int = 1, processes: int = 1) -> None:
        self.plan = plan
        self.batch_size = batch_size
        self.processes = processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        at_once = self.batch_size * self.processes
        return len(self.plan) if self.processes == 1 else -(-len(self.plan) // at_once) * at_once

    def __iter__(self) -> Iterator[int]:
        start = self.epoch * len(self.plan)
        rows = range(start, start + len(self.plan))
        rest = len(rows) % (self.batch_size * self.processes) if self.processes > 1 else 0
        yield from rows[: len(rows) - rest]
        for process in range(self.processes if rest else 0):
            mine = rows[len(rows) - rest + process :: self.processes]
            yield from mine
            yield from [BLANK] * (self.batch_size - len(mine))
