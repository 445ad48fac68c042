"""What sharing does to each task: every method beside a LoRA of its own for each, which shares nothing (`own`)."""

from loraweave.amounts import listed
from loraweave.comparison.differences import against
from loraweave.comparison.evidence import Evidence
from loraweave.comparison.records import BASE
from loraweave.evaluation.paired import LEVEL
from loraweave.runs.methods import choose_method

OWN = "own"


def transfer(evidence: Evidence) -> list[str]:
    """For each adapter that tasks share, on which of them it is better than `own` (they help each other) or worse (they
    disturb each other); where `own` has no result, that nothing tells."""
    results = evidence.results
    specs = {name: choose_method(spec) for name, spec in results["settings"]["methods"].items() if name != BASE}
    own = next((name for name, chosen in specs.items() if chosen.method.name == OWN and name in evidence.runs), None)
    if len(results["tasks"]) < 2:
        return []
    if own is None:
        shared = any(chosen.method.trains == "adapter" for chosen in specs.values())
        untold = f"Nothing tells on which tasks sharing helps or hurts: {OWN}, one LoRA for each task, has no result."
        return [untold] if shared else []
    said, alike, asked = [], [], 0
    for each in against(evidence, own):
        name = each["method"]
        if name == BASE or specs[name].method.trains != "adapter" or not each["tasks"]:
            continue
        asked += len(each["tasks"])
        better = [task for task, found in each["tasks"].items() if found["verdict"] == "win"]
        worse = [task for task, found in each["tasks"].items() if found["verdict"] == "loss"]
        parts = [f"better on {listed(better)} (transfer)"] if better else []
        parts += [f"worse on {listed(worse)} (interference)"] if worse else []
        if parts:
            said.append(f"{name} is {' and '.join(parts)}")
        else:
            alike.append(name)
    chance = int(LEVEL * asked) if said else 0
    if alike:
        said.append(f"{listed(alike)} cannot be told from it on any task")
    if not said:
        return []
    told = f"Beside one LoRA for each task, which shares nothing ({own}), task by task: {'; '.join(said)}."
    if chance:
        told += f" Where nothing differs, chance alone makes up to {chance} of so many ({asked}) verdicts."
    return [told]
