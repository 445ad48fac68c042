"""`python -m study`: make the base and the data, run what is left of the plan, and write docs/study.md."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from loraweave.errors import UserError
from loraweave.stopping import Stopped
from study.method_pages import write_method_pages
from study.page import write_page
from study.place import REPOSITORY, Place
from study.plan import BUDGETS, REGIMES, Stage, expected_seconds, stages
from study.plan_page import write_plan_tables
from study.readme import write_readme_table
from study.report import write_report
from study.runs import outstanding, run_all, run_seconds, searched


def main() -> int:
    """0 when all is run, 3 when some is left, 1 for a mistake of the user's, 143 after SIGTERM: the command goes on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--budget", choices=BUDGETS, default="small", help="small: two CPU cores; large: an accelerator"
    )
    parser.add_argument("--minutes", type=float, help="begin no stage that may not end by then")
    parser.add_argument("--tasks", choices=REGIMES, help="run those of one regime only, beside another process")
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data", help="the public sets")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "study", help="base, data and run folders")
    parser.add_argument("--estimate", action="store_true", help="say what is left and what it may take; run nothing")
    parser.add_argument("--page", action="store_true", help="write what the records come to into the docs; run nothing")
    parser.add_argument("--report", action="store_true", help="analyse the adapters that are here; run nothing")
    parser.add_argument("--plan", action="store_true", help="bring the tables of PLAN.md up to date; run nothing")
    given = parser.parse_args()
    place = Place(BUDGETS[given.budget], given.work.resolve(), given.data.resolve())
    order = [stage for stage in stages(place.budget) if given.tasks in (None, stage.regime)]
    try:
        if given.plan:
            write_plan_tables()
        elif given.estimate:
            estimate(place, order)
        elif given.page:
            write_pages(place)
        elif given.report:
            print(write_report(place, say))
        else:
            place.prepare()
            done = run_all(place, given.minutes, say, order)
            write_pages(place)
            return 0 if done else 3
    except UserError as error:
        say(str(error))
        return 1
    except Stopped as stopped:
        say(str(stopped))
        return 128 + signal.SIGTERM
    return 0


def write_pages(place: Place) -> None:
    """What the records come to: docs/study.md, the README's table, and figures on the pages of the methods."""
    write_page(place)
    write_readme_table(place)
    write_method_pages(place)


def say(words: str) -> None:
    """Tell the user, beside what is printed as a result."""
    print(words, file=sys.stderr, flush=True)


def estimate(place: Place, order: Sequence[Stage]) -> None:
    """Print every stage of these that is left, with the minutes that it may take and those in all."""
    measured, total = run_seconds(place), 0.0
    known = searched(place)
    begun = {regime for regime in REGIMES if place.results(regime) is not None}
    for stage in order:
        if (left := outstanding(place, stage)) is not None:
            first = stage.regime not in begun
            seconds = expected_seconds(left, place.budget, known, measured, first)
            known |= {*left.methods}
            begun.add(stage.regime)
            total += seconds
            minutes = f"{seconds / 60:5.0f} {total / 60:6.0f}"
            print(f"{minutes}  {stage.regime:6}  seed {stage.seed}  {', '.join(left.methods)}")
    basis = f"{measured:.0f} s for a run so far" if measured else "no run was made yet, so this is a guess"
    print(f"minutes, and in all; {basis}")


if __name__ == "__main__":
    sys.exit(main())
