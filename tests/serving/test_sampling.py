"""Samples of a batch: an exact draw from the softmax, by each request's own temperature, top_p and seed."""

from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from loraweave.serving.sampling import Asked, OwnSampling, Sampling
from loraweave.serving.voices import BASE

SCORES = torch.tensor([2.0, 1.5, 0.0, -1.0, 0.5, 1.9, -4.0])


def drawn(scores, samplings, places=None):
    """The token that is taken for each row."""
    processor = OwnSampling()
    places = places or [0] * len(samplings)
    states = [
        SimpleNamespace(logit_processor_kwargs={"asked": Asked((), BASE, 1, (), sampling)}, position_offset=place)
        for sampling, place in zip(samplings, places, strict=True)
    ]
    argument = processor.prepare_tensor_args([SimpleNamespace(state=state) for state in states])
    assert argument.shape == (len(samplings),)
    return processor(scores, argument).argmax(-1).tolist()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.6, 0.8), (1.0, 0.45)])
def test_draws_have_the_probabilities_of_transformers_own(temperature, top_p):
    warped = TemperatureLogitsWarper(temperature)(None, SCORES[None])
    if top_p < 1:
        warped = TopPLogitsWarper(top_p)(None, warped)
    wanted = warped.double().softmax(-1)[0]
    count = 20_000
    found = torch.tensor(drawn(SCORES.repeat(count, 1), [Sampling(temperature, top_p, seed) for seed in range(count)]))
    seen = torch.bincount(found, minlength=len(SCORES))
    assert seen[wanted == 0].sum() == 0
    likely = wanted > 0
    expected = wanted[likely] / wanted[likely].sum() * count
    assert chisquare(seen[likely].double(), expected).pvalue > 1e-4


def test_places_of_one_answer_are_independent():
    count = 5_000
    found = drawn(SCORES.repeat(count, 1), [Sampling(1.0, 1.0, 5)] * count, list(range(count)))
    seen = torch.bincount(torch.tensor(found), minlength=len(SCORES)).double()
    assert chisquare(seen, SCORES.double().softmax(-1) * count).pvalue > 1e-4


def test_a_draw_does_not_know_who_else_is_in_the_batch():
    sampling = Sampling(1.0, 0.9, 42)
    alone = drawn(SCORES[None], [sampling], [3])
    others = [Sampling(), Sampling(2.0, 1.0, 1), sampling, Sampling(0.1, 0.5, 2)]
    assert drawn(SCORES.repeat(4, 1), others, [1, 2, 3, 4])[2:3] == alone


def test_greedy_rows_stay_as_they_are():
    processor = OwnSampling()
    assert drawn(SCORES.repeat(3, 1), [Sampling(), Sampling(1.0, 1e-9, 3), Sampling(1e-6)]) == [0, 0, 0]
    scores = SCORES[None].clone()
    processor.prepare_tensor_args([])
    assert processor(scores, torch.zeros(0)) is scores
