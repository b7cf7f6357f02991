"""Probabilities and their measures, against torchmetrics, scikit-learn and scipy."""

import importlib
import re

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from ntf_utils.measures import calibration
from ntf_utils.refusal import Refusal


def drawn(members=3, images=400, classes=10, sure=2.0, seed=0):
    """[members, images, classes] logits that know something, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    logits = sure * torch.randn(members, images, classes, generator=generator)
    logits[:, torch.arange(images), labels] += sure
    return logits, labels


@pytest.fixture(scope="module")
def torchmetrics():
    """Its classification metrics. It imports torchvision, which a CPU build of torch only opens by our own door."""
    importlib.import_module("ntf_utils.data.torchvision_door")
    return importlib.import_module("torchmetrics.classification")


def test_an_ensemble_averages_probabilities_not_logits():
    logits, _ = drawn()
    said = calibration.ensemble(logits)
    assert torch.allclose(said.exp(), logits.softmax(-1).mean(0), atol=1e-6)
    assert torch.allclose(said.exp().sum(-1), torch.ones(400))
    assert not torch.allclose(said, logits.mean(0).log_softmax(-1), atol=0.1)


@pytest.mark.parametrize("classes", [2, 10])
def test_nll_error_and_brier_are_those_of_scikit_learn(classes, torchmetrics):
    logits, labels = drawn(classes=classes)
    said = calibration.ensemble(logits)
    probabilities, truth = said.exp().double().numpy(), labels.numpy()
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert float(calibration.nll(said, labels)) == pytest.approx(log_loss(truth, probabilities), rel=1e-5)
    wrong = 1 - accuracy_score(truth, probabilities.argmax(1))
    assert float(calibration.error(said, labels)) == pytest.approx(wrong, rel=1e-5)
    assert float(calibration.error(said, labels)) == pytest.approx(
        1 - float(torchmetrics.MulticlassAccuracy(classes, average="micro")(said.exp(), labels)), abs=1e-6
    )
    one = float(calibration.brier(said, labels))
    if classes == 2:  # scikit-learn's halves the binary score
        assert one == pytest.approx(2 * brier_score_loss(truth, probabilities[:, 1]), rel=1e-5)
    assert one == pytest.approx(((probabilities - np.eye(classes)[truth]) ** 2).sum(axis=1).mean(), rel=1e-5)


@pytest.mark.parametrize(("sure", "bins"), [(0.3, 15), (2.0, 15), (6.0, 15), (2.0, 5)])
def test_the_calibration_error_is_that_of_torchmetrics(sure, bins, torchmetrics):
    logits, labels = drawn(sure=sure)
    said = calibration.ensemble(logits)
    expected = torchmetrics.MulticlassCalibrationError(10, n_bins=bins, norm="l1")(said.exp(), labels)
    assert calibration.expected_calibration_error(said, labels, bins) == pytest.approx(float(expected), abs=1e-5)


def test_single_members_are_scored_as_a_batch():
    logits, labels = drawn()
    for measure in (calibration.nll, calibration.error, calibration.brier):
        said = logits.log_softmax(-1)
        assert torch.allclose(measure(said, labels), torch.stack([measure(own, labels) for own in said]))


def test_the_best_temperature_is_the_one_that_scipy_finds():
    for sure in (0.5, 2.0, 8.0):
        logits, labels = drawn(sure=sure)
        said = calibration.ensemble(logits).double()

        def cost(log_temperature, said=said, labels=labels):
            return float(calibration.nll(calibration.tempered(said, np.exp(log_temperature)), labels))

        found = calibration.best_temperature(said, labels)
        assert found == pytest.approx(np.exp(minimize_scalar(cost, bounds=(-3, 3), method="bounded").x), rel=1e-3)
        assert cost(np.log(found)) <= cost(0.0)
    # networks that are sure of themselves and right by chance only are told to be modest
    assert calibration.best_temperature(20 * torch.randn(100, 10).log_softmax(-1), labels[:100]) > 5


def test_tempering_keeps_the_labels_and_one_changes_nothing():
    logits, _ = drawn()
    said = calibration.ensemble(logits)
    assert torch.allclose(calibration.tempered(said, 1.0), said, atol=1e-6)
    assert torch.equal(calibration.tempered(said, 3.0).argmax(-1), said.argmax(-1))


def test_disagreement_and_agreement_count_images():
    said = torch.tensor([[0, 1, 2, 2], [0, 1, 2, 0], [1, 1, 2, 2]])
    logits = torch.nn.functional.one_hot(said, 3).float()
    assert calibration.disagreement(logits) == pytest.approx((1 / 4 + 1 / 4 + 2 / 4) / 3)
    found = calibration.agreement(logits, logits[:2])
    assert torch.allclose(found, torch.tensor([[1, 0.75], [0.75, 1], [0.75, 0.5]]))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: calibration.ensemble(drawn(members=1)[0]), "two members or more (got 1)"),
        (lambda: calibration.disagreement(drawn(members=1)[0]), "one member cannot disagree"),
        (lambda: calibration.tempered(torch.zeros(2, 3), 0.0), "temperature must be above 0 (got 0)"),
        (lambda: calibration.tempered(torch.zeros(2, 3), -1.0), "temperature must be above 0 (got -1)"),
        (lambda: calibration.tempered(torch.zeros(2, 3), float("nan")), "temperature must be above 0"),
        (lambda: calibration.nll(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long)), "2 predictions need as many"),
        (lambda: calibration.agreement(torch.zeros(2, 5, 3), torch.zeros(2, 5, 4)), "the same images and classes"),
    ],
)
def test_impossible_questions_are_refused(wrong, words):
    with pytest.raises(Refusal, match=re.escape(words)):
        wrong()
