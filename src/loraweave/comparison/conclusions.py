"""Everything that follows from a comparison's runs: what each task is, a row per method, differences, what to take."""

from loraweave.comparison.differences import against, reference
from loraweave.comparison.evidence import Evidence
from loraweave.comparison.forgetting import forgotten
from loraweave.comparison.recommend import recommend
from loraweave.comparison.records import Results
from loraweave.comparison.summary import describe_tasks, summarise


def conclude(results: Results) -> None:
    """Bring what follows from the runs up to date."""
    results["tasks"] = describe_tasks(results["runs"])
    evidence = Evidence(results)
    results["summary"] = summarise(evidence)
    results["reference"] = reference(results, results["settings"]["against"])
    results["differences"] = against(evidence, results["reference"])
    results["forgetting"] = forgotten(results)
    results["recommendation"] = recommend(evidence)
