"""Nearest neighbours and linear probes, beside scikit-learn and plain torch."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

from ntf_utils.measures import probing
from ntf_utils.measures.probing import (
    adamw_probe,
    check_features,
    converged_probe,
    knn_accuracy,
    knn_predict,
    neighbours,
)
from ntf_utils.refusal import Refusal


@pytest.fixture(scope="module")
def digits():
    features, labels = load_digits(return_X_y=True)
    noise = torch.rand(len(labels), 64, generator=torch.Generator().manual_seed(0))  # so that no distances are equal
    features = torch.tensor(features, dtype=torch.float32) + noise
    labels = torch.tensor(labels)
    return features[:1200], labels[:1200], features[1200:], labels[1200:]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(probing, "AT_ONCE", {"cpu": 1200 * 7})


@pytest.mark.parametrize("k", [1, 5, 20])
def test_the_euclidean_vote_is_scikit_learns(digits, k):
    bank, labels, queries, truth = digits
    known = KNeighborsClassifier(k, algorithm="brute").fit(bank.numpy(), labels.numpy())
    assert knn_predict(bank, labels, queries, k).tolist() == known.predict(queries.numpy()).tolist()
    share = knn_accuracy(bank, labels, queries, truth, k)
    assert share == pytest.approx(known.score(queries.numpy(), truth.numpy()))


def test_the_cosine_vote_is_scikit_learns_with_those_weights(digits):
    bank, labels, queries, _ = digits
    known = KNeighborsClassifier(20, metric="cosine", weights=lambda far: np.exp((1 - far) / 0.07))
    known.fit(bank.numpy(), labels.numpy())
    said = knn_predict(bank, labels, queries, 20, "cosine")
    assert (said.numpy() == known.predict(queries.numpy())).mean() > 0.998  # fp32 against fp64
    assert torch.equal(said, knn_predict(3 * bank, labels, queries, 20, "cosine"))
    assert not torch.equal(said, knn_predict(bank, labels, queries, 20))


def test_chunks_change_nothing(digits, small_chunks):
    bank, labels, queries, _ = digits
    far, rows = neighbours(bank, queries, 20)
    known_far, known_rows = KNeighborsClassifier(20).fit(bank.numpy(), labels.numpy()).kneighbors(queries.numpy())
    assert (rows.numpy() == known_rows).mean() > 0.999  # two that are all but equally near may change places
    torch.testing.assert_close(far.sqrt(), torch.tensor(known_far, dtype=torch.float32), rtol=1e-3, atol=1e-3)


def test_the_own_group_is_left_out(digits, small_chunks):
    bank, *_ = digits
    own = torch.arange(len(bank))
    assert torch.equal(neighbours(bank, bank, 1)[1][:, 0], own)
    found = neighbours(bank, bank, 5, bank_groups=own, query_groups=own)[1]
    assert torch.equal(found, neighbours(bank, bank, 6)[1][:, 1:])  # leave-one-out: all but the item itself
    views = own // 3  # three views of each image: none of them may vote for another
    found = neighbours(bank, bank, 5, bank_groups=views, query_groups=views)[1]
    assert not (views[found] == views[:, None]).any()
    far = torch.cdist(bank, bank).masked_fill(views[:, None] == views, torch.inf)
    assert torch.equal(found, far.topk(5, largest=False).indices)


def test_of_equal_votes_the_smallest_label_wins():
    bank = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    assert knn_predict(bank, torch.tensor([3, 1, 2, 0]), torch.tensor([[1.2]]), 3).tolist() == [1]


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (torch.full((3, 2), torch.nan), "NaN or infinity in 3 of 3 items"),
        (torch.tensor([[0.0], [torch.inf]]), "NaN or infinity in 1 of 2 items"),
        (torch.zeros(3), r"must be \[items, dimensions\]"),
    ],
)
def test_features_that_are_none_are_refused(features, words):
    with pytest.raises(Refusal, match=words):
        check_features(features)
    for probe in (converged_probe, adamw_probe):
        with pytest.raises(Refusal, match=words):
            probe(features, torch.zeros(len(features), dtype=torch.long), 2)
    if features.dim() == 2:
        bad, good = features, torch.zeros(30, features.shape[1])
        for bank, queries in ((bad, good), (good, bad)):
            with pytest.raises(Refusal, match=words):
                knn_predict(bank, torch.zeros(len(bank), dtype=torch.long), queries, 1)


def test_a_bank_smaller_than_k_is_refused():
    bank, labels = torch.randn(19, 2), torch.zeros(19, dtype=torch.long)
    with pytest.raises(Refusal, match=r"20 neighbours need a bank of at least 20 items \(got 19\)"):
        knn_predict(bank, labels, bank)
    own = torch.arange(19)
    with pytest.raises(Refusal, match="outside a query's own group"):
        knn_predict(bank, labels, bank, 19, bank_groups=own, query_groups=own)
    with pytest.raises(Refusal, match="need as many labels"):
        knn_predict(bank, labels[:3], bank, 1)


def test_the_converged_probe_is_scikit_learns(digits):
    train, labels, test, truth = digits
    for penalty in (0.01, 0.3):
        known = LogisticRegression(C=1 / (penalty * len(train)), max_iter=2000, tol=1e-8)
        scaler = StandardScaler().fit(train.double().numpy())
        known.fit(scaler.transform(train.double().numpy()), labels.numpy())
        probe = converged_probe(train, labels, 10, [penalty])
        known_score = known.score(scaler.transform(test.double().numpy()), truth.numpy())
        assert probe.accuracy(test, truth) == pytest.approx(known_score, abs=0.004)
        torch.testing.assert_close(probe.weight.T, torch.tensor(known.coef_).float(), rtol=0.02, atol=2e-3)


def test_the_scale_of_features_cannot_matter_to_it(digits):
    train, labels, test, truth = digits
    probe = converged_probe(train, labels, 10)
    scaled = converged_probe(1000 * train + 5, labels, 10)
    assert probe.penalty == scaled.penalty
    assert probe.accuracy(test, truth) == pytest.approx(scaled.accuracy(1000 * test + 5, truth), abs=0.004)
    constant = torch.cat([train, torch.ones(len(train), 1)], dim=1)
    more = torch.cat([test, torch.full((len(test), 1), 9.0)], dim=1)
    assert converged_probe(constant, labels, 10).accuracy(more, truth) == pytest.approx(
        probe.accuracy(test, truth), abs=0.004
    )


def test_the_penalty_is_chosen_on_held_out_training_items():
    """Many features of noise and few items: a weak penalty fits them by heart and serves no other item."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(100) % 2
    features = torch.randn(100, 80, generator=generator)
    features[:, 0] += 1.5 * (2 * labels - 1)
    assert converged_probe(features, labels, 2).penalty >= 0.3
    easy = torch.randn(2000, 5, generator=generator)
    assert converged_probe(easy, (easy[:, 0] > 0).long(), 2).penalty <= 0.03


def test_the_papers_probe_is_torchs_adamw_in_a_fixed_order(digits):
    train, labels, test, _ = digits
    probe = adamw_probe(train, labels, 10, updates=30, batch=100, seed=4)
    generator = torch.Generator().manual_seed(4)
    layer = nn.Linear(64, 10)
    with torch.no_grad():
        layer.weight.copy_(torch.empty(64, 10).uniform_(-0.125, 0.125, generator=generator).T)
        layer.bias.uniform_(-0.125, 0.125, generator=generator)
    order = torch.randperm(len(train), generator=generator)
    optimiser = torch.optim.AdamW(layer.parameters())
    for update in range(30):
        rows = order[100 * (update % 12) : 100 * (update % 12) + 100]
        optimiser.zero_grad()
        F.cross_entropy(layer(train[rows]), labels[rows]).backward()
        optimiser.step()
    torch.testing.assert_close(probe.weight.T, layer.weight.detach(), rtol=1e-4, atol=1e-5)
    assert (probe.weight.T @ test.T).shape == (10, len(test))


def test_probes_draw_nothing_from_the_global_generator(digits):
    train, labels, _, _ = digits
    before = torch.get_rng_state()
    with torch.no_grad():
        converged_probe(train[:200], labels[:200], 10)
        adamw_probe(train[:200], labels[:200], 10, updates=5)
    assert torch.equal(before, torch.get_rng_state())
