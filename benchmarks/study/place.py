"""Where the study's files are: what a machine makes for itself, and the records that go from machine to machine."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraweave.files import make_folder, write_json, write_text
from study.base import make_base
from study.data import make_data
from study.plan import REGIMES, Budget, Regime

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
RECORDS = HERE / "records"
PAGE = REPOSITORY / "docs" / "study.md"


@dataclass(frozen=True)
class Place:
    """Paths of one budget's study.

    Attributes:
        budget: its name is part of every path.
        work: base, data, run folders; nothing of it is committed.
        source: the folder of the public sets.
        records: what is committed: each regime's results, with paths of the machine written as words.
    """

    budget: Budget
    work: Path
    source: Path
    records: Path = RECORDS

    @property
    def base(self) -> Path:
        return self.work / "base"

    @property
    def data(self) -> Path:
        return self.work / "data"

    def comparison(self, regime: Regime) -> Path:
        """The folder of a regime's comparison on this machine."""
        return self.work / f"{self.budget.name}-{regime}"

    def record(self, regime: Regime) -> Path:
        """The regime's results as they are committed."""
        return self.records / f"{self.budget.name}-{regime}.json"

    def geometry(self, regime: Regime) -> Path:
        """What a regime's adapters are like, as it is committed: their files are not."""
        return self.records / f"{self.budget.name}-{regime}-geometry.json"

    @property
    def report(self) -> Path:
        """The committed analysis of some adapters."""
        return self.records.parent / "analysis"

    def prepare(self) -> None:
        """Make the base and the data, and bring the results of other machines here."""
        make_folder(self.work)
        make_base(self.base)
        make_data(self.source, self.data)
        for regime in REGIMES:
            self._bring(regime)

    def keep(self, regime: Regime) -> None:
        """Write a regime's results down as a record, without this machine's paths."""
        results = self.comparison(regime) / "results.json"
        if results.is_file():
            make_folder(self.records)
            text = self.portable(results.read_text(encoding="utf-8"))
            write_text(self.record(regime), json.dumps(json.loads(text), ensure_ascii=False, indent=1) + "\n")

    def portable(self, text: str) -> str:
        """A JSON text or a page with words in the place of this machine's paths, of other checkouts' here too: what a
        comparison was begun with from one of them stays in its results."""
        for word, path in self._words().items():
            text = text.replace(str(path), word)
        return re.sub(r'"/[^"]*?(?=/benchmarks/study/)', '"<repository>', text)

    def results(self, regime: Regime) -> dict[str, Any] | None:
        """A regime's recorded results; None where nothing was run."""
        record = self.record(regime)
        return json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None

    def read_geometry(self) -> dict[str, dict[str, float | None]]:
        """`REGIME RUN` -> measure -> its value, of runs by the names of their folders."""
        files = [path for regime in REGIMES if (path := self.geometry(regime)).is_file()]
        return {key: found for path in files for key, found in json.loads(path.read_text(encoding="utf-8")).items()}

    def measured(self, regime: Regime) -> dict[tuple[str, int], dict[str, float | None]]:
        """What the adapters of a regime's runs are like, by method and seed, as far as they were measured."""
        results, found = self.results(regime), self.read_geometry()
        runs = [run for run in results["runs"] if run["adapter"] is not None] if results is not None else []
        keys = {(run["method"], run["seed"]): f"{regime} {Path(run['adapter']).parent.name}" for run in runs}
        return {run: found[key] for run, key in keys.items() if key in found}

    def write_geometry(self, regime: Regime, found: dict[str, dict[str, float | None]]) -> None:
        """A file for each regime, so that two processes can work beside each other."""
        make_folder(self.records)
        own = {key: values for key, values in sorted(found.items()) if key.startswith(f"{regime} ")}
        write_json(self.geometry(regime), own)

    def _bring(self, regime: Regime) -> None:
        """Put a record where the comparison looks for it, if it knows of more runs than are known here."""
        record, here = self.record(regime), self.comparison(regime) / "results.json"
        if not record.is_file():
            return
        text = record.read_text(encoding="utf-8")
        if here.is_file() and _finished(here.read_text(encoding="utf-8")) >= _finished(text):
            return
        for word, path in self._words().items():
            text = text.replace(word, str(path))
        make_folder(here.parent)
        write_text(here, text)

    def _words(self) -> dict[str, Path]:
        return {"<work>": self.work, "<repository>": REPOSITORY}


def _finished(results: str) -> int:
    return sum(run["status"] == "finished" for run in json.loads(results)["runs"])
