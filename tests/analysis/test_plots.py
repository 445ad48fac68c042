"""What is drawn: values as the analysis has them, gaps where there are none, and never more panels than fit."""

import pytest
import torch
from analysis.made_up import analysis

from loraweave.analysis import plots, plots_heads, plots_spectra, plots_subspaces, plots_tasks
from loraweave.analysis.report_lead import lead
from loraweave.analysis.spectra import spectrum, summarise
from loraweave.pages.charts import Panel
from loraweave.pages.figures import QUIET


def table_of(section, name):
    return next(chart for chart in section.charts if chart.name == name).table


def test_means_leave_out_what_is_no_number():
    assert plots.mean_matrix([[[1.0, None]], [[3.0, 4.0]]]) == [[2.0, 4.0]]


def test_modules_stand_as_in_a_block():
    assert plots.in_order(["down_proj", "x", "attn.q_proj", "v_proj", "a"]) == [
        "attn.q_proj", "v_proj", "down_proj", "a", "x",
    ]  # fmt: skip


def test_depth_goes_from_the_first_block_to_the_last():
    entries = [{"depth": d, "value": v} for d, v in ((10, 1.0), (2, 5.0), (10, 3.0), (None, 9.0))]
    assert plots.by_depth(entries, lambda entry: entry["value"]) == [(2, 5.0), (10, 2.0)]


def test_deep_models_are_shown_in_groups_of_layers():
    rows = {"q_proj": [(depth, float(depth)) for depth in range(110)]}
    scale = plots.Scale("", 0.0, 110.0)
    axes = drawn(plots.depth_map("", rows, scale))
    assert len(axes.collections[0].get_paths()) <= plots.MOST_COLUMNS


def test_singular_values_are_shown_over_the_largest():
    rows = table_of(plots_spectra.section(analysis(["lora"])), "singular_values").rows
    q_proj = [row for row in rows if row[0] == "q_proj"]
    assert [row[2] for row in q_proj] == list(range(1, 9))
    assert [row[3] for row in q_proj] == pytest.approx([0.6**index for index in range(8)])


def test_a_layer_without_an_update_is_no_part_of_the_median():
    found = analysis(["lora"])
    for entry in found["spectra"][:1]:
        entry["singular_values"] = [0.0] * 8
    rows = table_of(plots_spectra.section(found), "singular_values").rows
    assert {row[3] for row in rows if row[2] == 1} == {1.0}


def test_an_update_of_more_directions_than_are_kept_is_said_to_have_them():
    found = analysis(["lora", "full"])
    assert "are shown" not in next(iter(plots_spectra.section(found).charts)).note
    for entry in found["spectra"]:
        if entry["run"] == "full":
            entry |= spectrum(torch.ones(300))
    found["spectrum_summary"] = summarise(found["spectra"])
    assert lead(found)[0].startswith("The update of full spreads over 300.0 of 300 directions and that of lora over ")
    assert "Of more than 256 the largest 256 are shown." in next(iter(plots_spectra.section(found).charts)).note


def test_effective_ranks_by_depth_are_of_layers_that_have_an_update():
    found = analysis(["lora"], layers=3, modules=["q_proj"])
    found["spectra"][1] |= spectrum(torch.zeros(8))
    rows = table_of(plots_spectra.section(found), "effective_rank_by_depth").rows
    first, none, last = (row[3] for row in rows)
    assert first == last > 1
    assert none != none


def test_overlap_of_runs_is_that_of_the_analysis():
    found = analysis(["lora", "rlora", "full"], modules=["q_proj"])
    rows = table_of(plots_subspaces.section(found), "overlap_of_runs").rows
    for first, second, side, value, chance in rows:
        (entry,) = (
            e
            for e in found["subspaces"]
            if e["runs"] == [first, second] and {"left": "outputs"}.get(e["side"], "inputs") == side
        )
        assert value == pytest.approx(sum(layer["overlap"] for layer in entry["by_layer"]) / len(entry["by_layer"]))
        assert chance == pytest.approx(0.03)


def test_of_many_pairs_those_with_full_fine_tuning_are_drawn():
    section = plots_subspaces.section(analysis(["lora", "rslora", "dora", "rlora", "full"], modules=["q_proj"]))
    rows = table_of(section, "overlap_by_rank").rows
    assert all("full" in row[:2] for row in rows)
    assert len({tuple(row[:2]) for row in rows}) == 4


@pytest.mark.parametrize("shared", [[], ["lora"]])
def test_of_many_pairs_those_with_a_run_that_is_in_most_are_drawn(shared: list[str]):
    """Full fine-tuning, or the first run, may have layers in common with none of the others, or with one alone."""
    others = ["lora", "rslora", "dora", "rlora", "mlora"]
    found = analysis(["full", *others], modules=["q_proj"])
    gone = [["full", name] for name in others if name not in shared]
    found["subspaces"] = [entry for entry in found["subspaces"] if entry["runs"] not in gone]
    section = plots_subspaces.section(found)
    assert section is not None
    assert f"Of the {10 + len(shared)} pairs of runs those with lora are drawn" in section.text
    rows = table_of(section, "overlap_by_rank").rows
    assert {tuple(row[:2]) for row in rows} == {("lora", name) for name in others[1:]} | {("full", n) for n in shared}


def test_heads_with_a_random_start_are_shown_as_they_are_and_as_they_changed():
    section = plots_heads.section(analysis(["lora", "rlora"]))
    rows = table_of(section, "head_similarity").rows
    assert {row[0] for row in rows} == {"rlora, B", "rlora, change of B since the start"}
    assert all(row[3] == 0.25 for row in rows)


def test_cosines_are_counted_once_and_gradients_of_zero_not_at_all():
    found = analysis(["lora"])
    section = plots_tasks.section(found)
    agreement = table_of(section, "gradient_agreement").rows
    # Pairs (0, 1) and (1, 2) of made_up's three tasks; (0, 2) has no cosine.
    assert agreement == [["lora", step, pytest.approx((-0.2 + 0.0) / 2), 50.0, 0.02] for step in (0, 10, 20)]
    within = [row for row in table_of(section, "gradient_cosines").rows if "other examples" in row[3]]
    assert {row[4] for row in within} == {0.9}


def test_pairs_pull_apart_beyond_their_noise_in_the_chart_as_in_the_summary():
    found = analysis(["lora"])
    for noise, share in ((0.01, 50.0), (0.09, 50.0), (0.11, 0.0)):  # of −0.2 and 0.0
        for entry in found["gradients"]:
            entry["noise"] = noise
        (chart,) = (c for c in plots_tasks.section(found).charts if c.name == "gradient_agreement")
        assert {row[3] for row in chart.table.rows} == {share}
        assert f"up to {max(0.02, 2 * noise):.2f}." in chart.note
        (said,) = (sentence for sentence in lead(found) if "gradients" in sentence)
        assert f"{share:.0f} % of the pairs pull apart, by more than their noise (± {2 * noise:.2f})" in said
        assert ("most apart are" in said) == (share > 0)


def test_the_lead_counts_the_pairs_of_each_run_by_its_own_noise():
    found = analysis(["lora", "rlora"])
    for entry in found["gradients"]:
        entry["noise"] = {"lora": 0.01, "rlora": 0.2}[entry["run"]]
    (said,) = (sentence for sentence in lead(found) if "gradients" in sentence)
    assert "25 % of the pairs pull apart, by more than their noise (± 0.02 to 0.40 by run)" in said


def test_a_map_of_little_of_the_variance_concludes_nothing():
    found = analysis(["rlora"])

    def note() -> str:
        return next(chart.note for chart in plots_heads.section(found).charts if chart.name == "head_map")

    assert "do the same thing everywhere" in note()
    found["head_map"][0]["explained"] = [0.12, 0.09]
    assert "as little as 21 % of the variance" in note()
    assert "do the same thing everywhere" not in note()


def test_heads_that_are_too_many_to_tell_apart_are_not_drawn_as_others():
    found = analysis(["rlora"])
    for entry in found["heads"]:
        entry["norms"] = entry["since_start"]["norms"] = [1.0] * 20
    for point in found["head_map"][0]["points"]:
        point["head"] += 12
    charts = {chart.name: chart for chart in plots_heads.section(found).charts}
    assert "The first 12 of 20 heads; the data have all." in charts["head_norms"].note
    assert "Heads from number 12 on are small grey dots." in charts["head_map"].note
    look = drawn(charts["head_map"].panels[0]).lines[0]
    assert (look.get_marker(), look.get_color()) == (".", QUIET)
    few = {chart.name: chart for chart in plots_heads.section(analysis(["rlora"])).charts}
    assert "12" not in few["head_norms"].note + few["head_map"].note


def test_the_overlap_of_two_runs_is_one_number():
    found = analysis(["lora", "rlora", "multilora"])
    rows = table_of(plots_subspaces.section(found), "overlap_of_runs").rows
    best = max((row for row in rows if row[2] == "outputs"), key=lambda row: row[3] - row[4])
    (said,) = (sentence for sentence in lead(found) if "overlap" in sentence)
    assert said.endswith(f"{best[0]} and {best[1]}: overlap {best[3]:.2f}, where chance gives {best[4]:.2f}.")


def test_layers_outside_of_blocks_leave_only_what_needs_no_depth():
    found = analysis(["rlora"])
    for section in ("spectra", "heads", "routing"):
        for entry in found[section]:
            entry["depth"] = None
    names = {chart.name for chart in plots_heads.section(found).charts if chart.panels}
    assert names == {"head_similarity", "head_map"}


def drawn(panel: Panel):
    from loraweave.pages import figures

    with figures.style():
        axes = figures.new(panel.width, panel.height).subplots()
        panel.draw(axes)
    return axes
