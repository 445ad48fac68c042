"""The record of an export, `export.json`, and its card: what went in, what came out, and how far they differ."""

from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from loraweave.evaluation import TaskScore
from loraweave.export.outputs import Difference
from loraweave.export.target import Work
from loraweave.export.variants import Variant
from loraweave.export.vllm import REFUSED
from loraweave.files import hashes_of, write_json
from loraweave.runs.folder import environment

NAME = "export.json"
FORMAT = 1


@dataclass(frozen=True)
class Export:
    """One export, written and compared.

    Attributes:
        path: its folder.
        to: "lora", "merged" or "gguf".
        base: name or folder of the base. revision: of one on the hub, where it was said.
        variant: for which task, and how heads are weighed.
        exact: whether nothing but rounding should tell it from the adapter.
        rank: of the plain LoRA; None where there is none. native: without truncation.
        kept: the share of the update's squared Frobenius norm that is left.
        differences: by task, from the adapter.
        scores: by task, the adapter's and its own; where it is not exact.
        notes: what else a person should know, a line each.
    """

    path: Path
    to: str
    base: str
    variant: Variant
    exact: bool
    rank: int | None
    native: int | None
    kept: float
    differences: dict[str, Difference]
    scores: dict[str, tuple[TaskScore, TaskScore]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    revision: str | None = None

    @property
    def largest(self) -> float:
        """The largest difference of any logit."""
        return max(each.largest for each in self.differences.values())

    @property
    def is_for_vllm(self) -> bool:
        """Whether it is a LoRA that vLLM takes, as far as that is known."""
        return self.to == "lora" and not any(note.startswith(REFUSED) for note in self.notes)

    @property
    def name(self) -> str:
        """What it is asked for by: its task's name, else its folder's."""
        return self.variant.folder or self.path.name


def write_record(export: Export, folder: Path, work: Work) -> None:
    """Write `export.json` beside all other files of an export, which lies in `folder` until it is whole."""
    source = work.source
    write_json(
        folder / NAME,
        {
            "format": FORMAT,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "to": export.to,
            "method": source.method,
            "task": export.variant.task,
            "heads": export.variant.heads,
            "exact": export.exact,
            "rank": export.rank,
            "rank_without_truncation": export.native,
            "energy_kept": export.kept,
            "largest_difference": export.largest,
            "differences": {name or "random tokens": asdict(each) for name, each in export.differences.items()},
            "scores": {name: {"adapter": a, "export": b} for name, (a, b) in export.scores.items()},
            "base": {"name": source.base, "fingerprint": work.fingerprint, **source.spec.options()},
            "notes": list(export.notes),
            "went_in": hashes_of(source.adapter.folder),
            "files": {path: digest for path, digest in hashes_of(folder).items() if path != NAME},
            "environment": environment(source.config.seed if source.config else 0),
        },
    )


def plain_difference(export: Export) -> str:
    """How far an export is from its adapter, in words."""
    if export.exact:
        return f"exact: no logit differs by more than {export.largest:.1e}"
    kl = max(each.kl for each in export.differences.values())
    return f"not exact: KL {kl:.2g} nats per token, no logit differs by more than {export.largest:.2g}"
