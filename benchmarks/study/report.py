"""The committed analysis: `loraweave analyze` over one seed's adapters of tasks apart, beside full fine-tuning."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import loraweave
from loraweave.errors import UserError
from loraweave.files import make_folder, write_text
from study.geometry import folders
from study.place import Place
from study.plan import Regime
from study.runs import COMMAND

REGIME: Regime = "apart"
SEED = 0
METHODS = ("lora", "own", "multilora", "hydralora", "rlora", "rlora-no-start", "rlora-no-dropout")
"""Those whose updates and heads the claims are about, in this order."""


def write_report(place: Place, say: Callable[[str], None]) -> Path:
    """Write `analysis/`: numbers and the page, without this machine's paths.

    Raises:
        UserError: none of the adapters is on this machine; they are too large to be committed.
    """
    here = {method: folder for (method, seed), folder in folders(place, REGIME).items() if seed == SEED}
    chosen = [here[method] for method in METHODS if method in here]
    if not chosen:
        raise UserError(f"{place.comparison(REGIME)}: no adapter to analyse; `{COMMAND}` trains them")
    report = place.report
    make_folder(report)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "analysis"
        loraweave.analyze(chosen, folder, full=here.get("full"), command=f"{COMMAND} --report", progress=say)
        for name in ("analysis.json", "report.html"):  # the page holds its figures
            write_text(report / name, place.portable((folder / name).read_text(encoding="utf-8")))
    return report
