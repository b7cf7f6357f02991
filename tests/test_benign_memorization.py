"""The chapter's own methods: random labels, views, probes by layer, effects, studies and the explorer's two faces."""

import copy
import json
import re
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from waiting import wait_for

from ntf_utils.data.images import Images, load_images
from ntf_utils.papers.benign_memorization import effects
from ntf_utils.papers.benign_memorization.live import LiveMemory, recorded_states
from ntf_utils.papers.benign_memorization.memorization import (
    Job,
    MemorizeConfig,
    calibrate,
    check_memory,
    drawn_labels,
    in_batches,
    label_loss,
    memorize_labels,
    mixed,
    same_class_views,
)
from ntf_utils.papers.benign_memorization.studies import BenignParameters, DepthParameters, ViewsParameters
from ntf_utils.refusal import Refusal
from ntf_utils.runs import curves, sweep
from ntf_utils.show import DepthExplorer
from ntf_utils.show.depth_live import DepthView
from ntf_utils.show.memorization_figures import sign_change

pytestmark = pytest.mark.usefixtures("own_store")


SMALL = {
    "dataset": "digits", "pool": 1, "n_train": 40, "n_bank": 80, "n_test": 60, "neighbours": 5, "width": 4,
    "hidden": 24, "steps": 8, "batch": 20, "looks": 2, "strength": 0.5,
}  # fmt: skip
CPU = torch.device("cpu")


def tiny(**changes):
    return MemorizeConfig(**SMALL | changes)


def job(**changes):
    return Job(tiny(**changes), CPU)


def source(seed=0):
    return torch.Generator().manual_seed(seed)


# labels and losses


def test_labels_are_uniform_fixed_by_the_seed_and_right_by_chance():
    true = torch.arange(20_000) % 10
    labels = drawn_labels(true, 10, 1.0, 3, views=2)
    assert torch.equal(labels, drawn_labels(true, 10, 1.0, 3, views=2))
    assert torch.equal(labels[0], drawn_labels(true, 10, 1.0, 3)[0])  # one view has its image's label
    assert not torch.equal(labels[0], drawn_labels(true, 10, 1.0, 4)[0])
    assert (labels[0].bincount(minlength=10) - 2000).abs().max() < 5 * 2000**0.5
    for right in ((labels[0] == true), (labels[0] == labels[1])):
        assert 0.09 < right.float().mean() < 0.11


@pytest.mark.parametrize(("noise", "kept"), [(0.0, 1.0), (0.25, 0.75 + 0.025), (1.0, 0.1)])
def test_a_share_of_images_gets_its_true_label_back(noise, kept):
    true = torch.arange(20_000) % 10
    found = drawn_labels(true, 10, noise, 0)[0] == true
    assert found.float().mean() == pytest.approx(kept, abs=0.01)


def test_the_loss_is_the_mean_square_to_the_one_hot_label():
    said, labels = torch.randn(6, 4), torch.tensor([0, 3, 1, 1, 2, 0])
    by_hand = sum((said[i, c] - float(labels[i] == c)) ** 2 for i in range(6) for c in range(4)) / 24
    torch.testing.assert_close(label_loss(said, labels), by_hand)
    assert label_loss(said.bfloat16(), labels).dtype == torch.float32


def test_mixing_takes_two_images_and_keeps_what_they_sum_to():
    images = torch.zeros(50, 1, 1, 1)
    images[:25] = 1
    found = mixed(images, source())
    values = set(found.flatten().tolist())
    share = max(value for value in values if value < 1)
    assert 0 < share < 1 and {round(value, 5) for value in values} <= {0.0, 1.0, round(share, 5), round(1 - share, 5)}
    with_mixup, without = job(mixup=1.0, strength=0.0, views=1), job(strength=0.0, views=1)
    rows = torch.arange(20)
    (inputs, labels), (plain, same) = with_mixup.batch(0, rows), without.batch(0, rows)
    assert torch.equal(labels, same) and not torch.equal(inputs, plain)  # the label stays the first image's, whole


# views and data


def test_bank_test_and_memorised_images_are_apart_and_the_bank_is_the_same_for_all_seeds():
    first, second = job(), job(seed=1)
    assert torch.equal(first.bank.pixels, second.bank.pixels) and torch.equal(first.test.pixels, second.test.pixels)
    assert not torch.equal(first.images.pixels, second.images.pixels)
    everything = load_images("digits", "train")
    rows = {tuple(image.flatten().tolist()) for image in everything.pixels}
    if len(rows) == len(everything):  # no two digits are alike
        sets = [{tuple(image.flatten().tolist()) for image in part.pixels} for part in (first.bank, first.images)]
        assert not sets[0] & sets[1]
    assert len(first.bank) + len(first.images) + len(first.others) == len(everything)


def test_all_arms_of_a_seed_have_one_start_and_one_set_of_images_and_labels():
    first = job()
    rows = []
    for changes in ({}, {"views": 1, "strength": 0.0}, {"views": 3}, {"views": 3, "own_labels": True}, {"noise": 0.5}):
        other = job(**changes)
        assert torch.equal(other.images.pixels, first.images.pixels)
        assert torch.equal(other.labels, first.labels) or "noise" in changes
        rows.append(memorize_labels(tiny(**changes, steps=2, looks=1)).rows[0])
    assert len({row["knn_start"] for row in rows}) == len({row["invariance_start"] for row in rows}) == 1


def test_frozen_views_stay_and_new_ones_never_come_twice():
    rows = torch.arange(20)
    frozen = job(views=3)
    assert frozen.frozen.pixels.shape == (3, 40, 1, 8, 8) and frozen.frozen.pixels.dtype == torch.uint8
    known = {tuple(view.flatten().tolist()) for view in frozen.frozen.pixels.flatten(0, 1)}
    for step in range(4):
        inputs, labels = frozen.batch(step, rows)
        assert {tuple((255 * image).round().byte().flatten().tolist()) for image in inputs} <= known
        assert torch.equal(labels, frozen.labels[0][rows])
    fresh = job()
    first, second, again = (fresh.batch(step, rows)[0] for step in (0, 1, 0))
    assert torch.equal(first, again) and not torch.equal(first, second)
    more = job(views=5)  # the first views do not depend on how many there are
    assert torch.equal(more.frozen.pixels[:3], frozen.frozen.pixels)


def test_views_with_labels_of_their_own_keep_them():
    own = job(views=4, own_labels=True)
    assert own.memory_items == 160 and job(views=4).memory_items == job().memory_items == 40
    assert own.frozen.labels.shape == (4, 40) and torch.equal(own.frozen.labels[0], own.labels[0])
    inputs, labels = own.batch(0, torch.arange(40))
    seen = (255 * inputs).round().byte()
    for place in range(40):  # each view comes with the label that it was given
        where = (own.frozen.pixels[:, place] == seen[place]).flatten(1).all(1).nonzero()[:, 0]
        assert labels[place] in own.frozen.labels[where, place]


def test_no_strength_shows_the_images_as_they_are():
    plain = job(strength=0.0, views=1)
    assert torch.equal(plain.frozen.pixels[0], plain.images.pixels)


def test_other_images_of_the_class_are_each_used_once():
    pixels = torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1)
    labels = torch.arange(60) % 3
    images = Images("digits", pixels[:6], labels[:6], ("a", "b", "c"))
    others = Images("digits", pixels[6:], labels[6:], ("a", "b", "c"))
    found = same_class_views(images, others, 4).flatten(1)
    assert found.shape == (4, 6) and len(set(found.flatten().tolist())) == 24 and found.min() >= 6
    assert all((labels[found[:, place].long()] == labels[place]).all() for place in range(6))
    with pytest.raises(Refusal, match=r"10 other images of class 'a' for each of 2 images need 20 \(there are 18\)"):
        same_class_views(images, others, 10)


# what is trained and read


def test_a_network_memorises_and_says_so():
    row = memorize_labels(tiny(strength=0.0, views=1, steps=200, looks=1, learning_rate=1e-2)).rows[0]
    assert row["memorised"] > 0.95 and row["bias"] < 0.02 and row["spread"] < 1e-12
    assert row["head"] < 0.4 and abs(row["knn_shuffled"] - 0.1) < 0.15


def test_runs_repeat_and_looking_changes_nothing():
    config = tiny(by_layer=True, shown=1)
    outcome = memorize_labels(config)
    assert memorize_labels(config) == outcome
    unwatched = memorize_labels(tiny(looks=1))
    assert unwatched.rows == outcome.rows
    assert outcome.curves["learning"]["step"] == [0, 4, 8]


def test_batch_norm_knows_the_images_before_the_first_reading_and_goes_on_as_usual():
    norm = nn.BatchNorm2d(3)
    images = torch.randn(256, 3, 4, 4) * 3 + 1
    calibrate(norm, images)
    torch.testing.assert_close(norm.running_mean, images.mean(dim=(0, 2, 3)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(norm.running_var, images.var(dim=(0, 2, 3)), rtol=1e-3, atol=1e-3)
    assert norm.momentum == 0.1 and norm.training


def test_the_vote_is_scikit_learns_by_cosine():
    bank, test = torch.randn(80, 12).abs(), torch.randn(60, 12).abs()
    here = job()
    normed = [(part / part.norm(dim=1, keepdim=True)).numpy() for part in (bank, test)]
    known = KNeighborsClassifier(5).fit(normed[0], here.bank_labels.numpy())
    assert here.knn(bank, test) == pytest.approx(known.score(normed[1], here.test_labels.numpy()))


def test_the_layers_are_those_that_the_network_computes():
    here = job()
    network = here.fresh().eval()
    images = torch.rand(7, 1, 8, 8)
    found = network.by_layer(images)
    assert list(found) == ["stem", "group 1", "group 2", "group 3", "hidden", "ReLU", "logits"]
    torch.testing.assert_close(found["group 3"], network.encoder(images))
    torch.testing.assert_close(found["logits"], network(images))


def test_a_view_never_asks_the_views_of_its_own_image():
    """Four views that are all alike: with its own among the neighbours every layer would know every random label."""
    here = job(strength=0.0, views=4, by_layer=True)
    layers = pd.DataFrame(here.layers(here.fresh(), "start"))
    assert (layers["random"] < 0.4).all()
    assert here.read_count == 4
    assert all(torch.equal(here.read_view(view)[1], here.labels[0]) for view in range(4))


def test_layers_of_a_network_that_memorised_tell_the_random_labels_at_the_end_only():
    config = tiny(strength=0.0, views=1, steps=200, looks=1, learning_rate=1e-2, by_layer=True)
    layers = pd.DataFrame(memorize_labels(config).curves["layers"]).set_index(["when", "layer"])["random"]
    assert layers["end", "logits"] > 0.9
    assert layers["end", "stem"] < 0.4 and layers["start", "logits"] < 0.4


def test_nearest_images_are_others():
    shown = pd.DataFrame(memorize_labels(tiny(shown=1)).curves["shown"])
    assert len(shown) == 2 * 7 * 10  # before and after, layers, classes
    for row in shown.itertuples():
        near = [int(word) for word in row.near.split()]
        assert len(set(near)) == 5 and row.image not in near and max(near) < 40


def test_reading_leaves_the_network_in_its_mode():
    here = job()
    network = here.fresh().train()
    before = copy.deepcopy(network.state_dict())
    here.look(network, 0)
    here.at_the_end(network)
    assert network.training and all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not in_batches(network, torch.rand(3, 1, 8, 8)).requires_grad


def test_bf16_keeps_the_loss_in_fp32():
    assert 0 <= memorize_labels(tiny(precision="bf16")).rows[0]["memorised"] <= 1


# bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"noise": 1.2}, "noise must be less than or equal to 1 (got 1.2)"),
        ({"noise": -0.1}, "noise must be greater than or equal to 0 (got -0.1)"),
        ({"strength": 1.5}, "strength must be less than or equal to 1 (got 1.5)"),
        ({"encoder": "vgg11"}, "encoder must be"),
        ({"dataset": "cifar"}, "unknown data set 'cifar': did you mean"),
        ({"batch": 41}, "batch must not exceed n_train (got 41 of 40)"),
        ({"n_bank": 4}, "5 neighbours need a bank of as many images (n_bank is 4)"),
        ({"own_labels": True}, "can only be had for frozen views"),
        ({"source": "same_class"}, "can only be had for frozen views"),
        ({"own_labels": True, "views": 2, "noise": 0.5}, "noise must be 1"),
        ({"stepz": 3}, "unknown field 'stepz': did you mean 'steps'"),
    ],
)
def test_impossible_configs_are_refused_in_one_sentence(changes, words):
    with pytest.raises(Refusal, match=re.escape(words)) as refusal:
        tiny(**changes)
    assert "\n" not in str(refusal.value)


def test_what_does_not_fit_is_said_before_anything_is_allocated(monkeypatch):
    with pytest.raises(Refusal, match=r"64 views of 50,000 images take 9\.2 GiB, and half of the memory is 8\.0 GiB"):
        check_memory(50_000, 64, (3, 32, 32), available=2**34)
    check_memory(50_000, 0, (3, 32, 32), available=1)  # ever new views are not kept

    def drawn(*arguments):
        raise AssertionError("views were drawn")

    monkeypatch.setattr("ntf_utils.papers.benign_memorization.memorization.draw_views", drawn)
    with pytest.raises(Refusal, match="ask for fewer views or images, or for ever new ones"):
        memorize_labels(tiny(views=10**10))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder": "resnet18", "pool": 2}, "resnet18 needs images of at least 8 x 8 pixels (got 4 x 4)"),
        ({"encoder": "resnet18_medium"}, "resnet18_medium needs images of at least 16 x 16 pixels (got 8 x 8)"),
        ({"pool": 3}, "images of 8 x 8 pixels cannot be pooled by 3"),
        ({"n_train": 1400}, "1,400 images to memorise cannot be drawn from the 1,357 outside the bank"),
        ({"n_bank": 1500}, "1,500 images cannot be drawn from the 1,437 of digits"),
        ({"views": 40, "source": "same_class"}, "other images of class"),
    ],
)
def test_impossible_data_are_refused_before_training(changes, words):
    with pytest.raises(Refusal, match=re.escape(words)):
        job(**changes)


# effects


def rows(knn, start=0.2, memorised=0.99, **about):
    base = {"knn": knn, "knn_start": start, "memorised": memorised, "seed": range(len(knn)), "encoder": "resnet8",
            "width": 4, "classes": 10, "knn_shuffled": 0.1, "strength": 0.5, "invariance": 0.8,
            "invariance_start": 0.9, "labels": 40}  # fmt: skip
    table = pd.DataFrame(base | about)
    return table.assign(key=[f"{about}-{start}-{seed}-{value}" for seed, value in enumerate(knn)])


def test_effects_are_points_by_seed():
    first, second = rows([0.3, 0.4]), rows([0.1, 0.3, 0.9])
    assert effects.change(first).tolist() == pytest.approx([10, 20])
    assert effects.difference(first, second).to_dict() == pytest.approx({0: 20, 1: 10})
    assert effects.invariance_change(first).tolist() == pytest.approx([-0.1, -0.1])
    with pytest.raises(Refusal, match="one setting at a time"):
        effects.change(pd.concat([first, second]))


def test_rank_correlations_are_taken_within_a_seed():
    table = pd.concat([rows([0.1, 0.4], views=1), rows([0.2, 0.3], views=4), rows([0.3, 0.2], views=0)])
    found = effects.rank_correlation(effects.with_count(table), "count", "knn")
    assert found.to_dict() == pytest.approx({0: 1, 1: -1})
    lacking = pd.concat([table, rows([0.1, 0.1, 0.4], views=1)[2:], rows([0.1, 0.1, 0.5], views=4)[2:]])
    assert set(effects.rank_correlation(lacking, "views", "knn").index) == {0, 1}  # two of three settings tell nothing
    alike = pd.concat([rows([0.2], views=1), rows([0.2], views=4)])
    assert effects.rank_correlation(alike, "views", "knn").to_dict() == {0: 0}


def test_the_embedding_may_lose_a_third_of_what_the_head_loses():
    table = pd.concat([
        rows([0.5], noise=0.0, head=0.7), rows([0.45], noise=0.5, head=0.4), rows([0.4], noise=1.0, head=0.1),
    ])  # fmt: skip
    assert effects.kept(table).to_dict() == pytest.approx({0: ((5 - 10) + (10 - 20)) / 2})


def layer_curve():
    layers = ["stem", "group 1", "hidden", "logits"]
    def of(when, true, random):
        return pd.DataFrame({"seed": 2, "when": when, "layer": layers, "true": true, "random": random})
    return pd.concat([of("start", [0.2, 0.2, 0.2, 0.15], [0.1] * 4),
                      of("end", [0.25, 0.4, 0.3, 0.2], [0.1, 0.3, 0.6, 0.9])])  # fmt: skip


def test_depth_is_judged_on_changes_and_on_the_encoders_worst_layer():
    found = effects.separation(layer_curve(), 10)
    assert {name: value.to_dict() for name, value in found.items()} == {
        "rise": {2: pytest.approx(15)}, "fall": {2: pytest.approx(15)}, "clean": {2: pytest.approx(20)},
        "memory": {2: pytest.approx(90)},
    }  # fmt: skip
    assert effects.encoder_output(layer_curve()) == "group 1"


def test_gates_fail_when_they_should():
    good = rows([0.3, 0.31, 0.3])
    frozen = pd.concat([good.assign(views=1), good.assign(views=4)])
    noisy = pd.concat([good.assign(noise=0.0), good.assign(noise=1.0)])
    assert all(effects.gates(good, good, frozen, noisy, good, (good,)).values())
    lazy = good.assign(memorised=[0.99, 0.8, 0.85])
    assert not effects.gates(lazy)["augmented_memorised"] and not effects.gates(plain=lazy)["plain_memorised"]
    mostly = pd.concat([frozen, lazy.assign(views=9)])
    assert not effects.gates(frozen=mostly)["views_memorised"]
    assert not effects.gates(noisy=pd.concat([noisy, lazy.assign(noise=0.5)]))["noisy_memorised"]
    blind = noisy.assign(knn=[0.3, 0.1, 0.2] * 2)
    assert not effects.gates(noisy=blind)["true_labels_help"]
    other = rows([0.3], start=0.21)
    assert not effects.gates(tables=(good, other))["same_start"]
    assert effects.gates(tables=(good, rows([0.3], start=0.21, width=8)))["same_start"]
    assert not effects.gates(tables=(good.assign(knn_shuffled=0.16),))["shuffled_at_chance"]
    assert "not memorised" in effects.summary({"lazy": lazy}).to_string()


def test_the_sign_change_lies_between_its_neighbours_on_a_log_axis():
    place = pd.Series([1.0, 4.0, 16.0])
    assert sign_change(place, pd.Series([-2.0, -1.0, 1.0])) == pytest.approx(8)
    assert sign_change(place, pd.Series([-3.0, -2.0, -1.0])) is None


def test_bits_are_the_binary_logarithm_of_the_classes():
    assert effects.bits_to_store(rows([0.2], labels=100, classes=8)).tolist() == pytest.approx([300])


# studies

SHARED = {
    "profile": "smoke", "seeds": 4, "few": 2, "first_seed": 7, "dataset": "cifar10", "pool": 2, "n_train": 64,
    "n_bank": 100, "n_test": 100, "neighbours": 5, "encoder": "resnet8", "width": 4, "hidden": 16, "strength": 0.5,
    "steps": 8, "batch": 16, "learning_rate": 1e-3, "precision": "fp32", "looks": 4,
}  # fmt: skip
BENIGN = SHARED | {"strengths": [0.0, 0.2, 1.0], "mixup": 0.8}
DEPTH = SHARED | {"noises": [0.0, 0.5, 1.0], "projectors": [8, 16], "explored_images": 40, "explored_steps": 8,
                  "explored_width": 2}  # fmt: skip
VIEWS = SHARED | {
    "counts": [1, 4, 8], "own_counts": [1, 8], "same_class": 4, "same_class_images": 64, "tight_width": 1,
    "tight_hidden": 4, "tight_images": 32, "tight_counts": [1, 3], "tight_passes": 5,
}  # fmt: skip
EACH = ((BenignParameters, BENIGN), (DepthParameters, DEPTH), (ViewsParameters, VIEWS))


def test_every_arm_differs_from_the_main_one_in_what_it_is_named_for():
    study = ViewsParameters(**VIEWS)
    start = study.augmented()[0].as_dict()

    def changed(configs):
        return {
            name for config in configs for name, value in config.as_dict().items() if value != start[name]
        } - {"seed", "by_layer"}  # fmt: skip

    assert changed(study.by_count()) == {"views"} and changed(study.by_own_count()) == {"views", "own_labels"}
    assert changed(study.by_same_class()) == {"views", "source", "strength"}
    assert changed(study.with_true_labels()) == {"noise"} and changed(study.plain()) == {"strength", "views"}
    assert changed(BenignParameters(**BENIGN).by_strength()) == {"strength"}
    assert changed(DepthParameters(**DEPTH).by_projector()) == {"hidden"}


def test_arms_that_pages_share_are_run_once():
    first, second, third = (set(cls(**given).runs()) for cls, given in EACH)
    assert len(first & second) == 12  # augmented, plain and true labels of four seeds
    assert len(first & third) == 8 and len(second & third) == 4  # augmented, and one view
    study = ViewsParameters(**VIEWS)
    assert set(study.as_many()) <= set(study.by_count())  # as many views of as many images


def test_judged_arms_have_all_seeds_and_the_others_fewer():
    views, depth = ViewsParameters(**VIEWS), DepthParameters(**DEPTH)
    assert {config.seed for config in views.by_own_count()} == {7, 8, 9, 10}
    assert {config.seed for config in views.tight()} == {config.seed for config in depth.by_projector()} == {7, 8}
    assert [config.steps for config in views.tight()] == [5 * 2, 5 * 2, 5 * 2 * 3, 5 * 2 * 3]  # equal passes a view
    assert {config.noise for config in depth.by_noise()} == {0.5}
    assert {config.seed for config in BenignParameters(**BENIGN).by_strength()} == {7, 8}
    assert {config.dataset for config in depth.explored()} == {"digits"}


def test_with_the_embedded_digits_nothing_else_is_loaded():
    """`-p dataset digits` alone is one of the ways out when data are absent."""
    for cls, given in EACH:
        runs = cls(**given | {"dataset": "digits", "n_train": 192, "n_bank": 2000, "n_test": 2000}).runs()
        assert {config.dataset for config in runs} == {"digits"} and {config.pool for config in runs} == {1}
        for config in {config.but(seed=0) for config in runs}:
            Job(config, CPU)


@pytest.mark.parametrize(
    ("cls", "given", "words"),
    [
        (ViewsParameters, VIEWS | {"own_counts": [1, 16]}, "the largest of own_counts, 16, must be among counts"),
        (BenignParameters, BENIGN | {"strengths": [0.0, 2.0]}, "strengths.1 must be less than or equal to 1 (got 2"),
        (DepthParameters, DEPTH | {"noises": [0.0, 1.5]}, "noises.1 must be less than or equal to 1 (got 1.5)"),
        (DepthParameters, DEPTH | {"steps": 10}, "steps must be a multiple of looks, 4 (got 10)"),
        (DepthParameters, DEPTH | {"batch": 65}, "batch must not exceed n_train"),
    ],
)
def test_impossible_studies_are_refused(cls, given, words):
    with pytest.raises(Refusal, match=re.escape(words)):
        cls(**given)


# the explorer


def network(name="before", near=((1, 2), (0, 2))):
    return {"name": name, "strength": None, "memorised": 12.5, "true": [50.0, 75.0], "random": [10.0, 90.0],
            "near": [[list(each) for each in near], [[2, 1], [2, 0]]]}  # fmt: skip


def states(*networks, layers=("stem", "logits")):
    return {
        "layers": list(layers), "true": [3, 3, 5], "labels": [1, 7, 1], "asked": [0, 1],
        "pictures": [f"data:image/png;base64,{letter}" for letter in "ABC"],
        "networks": list(networks) or [network(), network("after")],
    }  # fmt: skip


class TestPage:
    def test_says_in_words_what_it_shows(self):
        explorer = DepthExplorer(states())
        assert "before: 50/10 75/90" in repr(explorer)
        assert (
            "stem, before: of the 2 images nearest to this 3, 1 show the same digit and 1 carry the same random "
            "label, 1. Over all images, neighbours vote rightly on 50.0 % of the true labels and on 10.0 % of the "
            "random ones. The network itself says 12.5 % of the random labels."
        ) in explorer.page()

    def test_tiles_mark_the_same_digit_and_the_same_label(self):
        tiles = re.findall(r'<span class="(tile[^"]*)"><img alt="" src="[^"]*,(\w)"><b>label (\d)', self.html())
        assert tiles == [("tile", "A", "1"), ("tile same", "B", "7"), ("tile shared", "C", "1")]

    def html(self):
        return DepthExplorer(states()).page()

    def test_its_data_draw_every_layer_network_and_image(self):
        data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', self.html())[1])
        assert len(data["networks"]) == 2 and np.shape(data["networks"][0]["words"]) == (2, 2)
        assert data["images"]["2"][:2] == [5, 1] and data["places"] == ["0.0", "100.0"]
        assert len(self.html()) < 60_000

    def test_markup_in_names_stays_text_and_nothing_is_loaded(self):
        html = DepthExplorer(states(layers=("</script><script>alert(1)</script>", '"&'))).page()
        assert "alert(1)</script>" not in html and html.count("<script") == html.count("</script>") == 2
        assert not re.search(r"""(href)=|https?://|url\(|@import""", html)
        assert all(address.startswith("data:image/png") for address in re.findall(r'src="([^"]*)"', html))

    def test_wrong_shapes_are_refused(self):
        for spoil, words in (
            (lambda s: s["networks"].clear(), "no network or no image"),
            (lambda s: s["pictures"].pop(), "each of 3 images needs a random label and a picture"),
            (lambda s: s["networks"][0]["true"].pop(), "must say something of each of 2 layers"),
            (lambda s: s["networks"][0]["near"][0].pop(), "must have neighbours of each of 2 images"),
            (lambda s: s["networks"][0]["near"][0][0].append(9), "names images that are not there"),
        ):
            bad = copy.deepcopy(states())
            spoil(bad)
            with pytest.raises(Refusal, match=words):
                DepthExplorer(bad)


class FakeMemory:
    """Trains three updates, each when the test allows it."""

    def __init__(self, error=None):
        self.error, self.go, self.ended = error, threading.Semaphore(0), []

    def train(self, strength, report):
        try:
            for step in (1, 2, 3):
                assert self.go.acquire(timeout=10)
                if self.error:
                    raise self.error
                report(step, 3)
            self.ended.append("done")
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        return network(f"strength {strength:g}", near=((2, 1), (2, 0)))


class TestLive:
    def test_both_faces_are_offered_and_a_page_build_has_no_widget(self, monkeypatch):
        monkeypatch.delenv("NTF_RECORDED_ONLY", raising=False)
        bundle = DepthExplorer(states(), live=FakeMemory)._repr_mimebundle_()
        assert {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"} == set(bundle)
        monkeypatch.setenv("NTF_RECORDED_ONLY", "1")
        assert len(DepthExplorer(states(), live=FakeMemory)._repr_mimebundle_()) == 2

    def test_controls_move_the_picture(self):
        view = DepthView(states(), FakeMemory)
        assert "stem, before: of the 2 images nearest to this 3, 1 show" in view.picture.value
        view.layer.value, view.network.value, view.image.value = 1, "after", 1
        assert "logits, after: of the 2 images nearest to this 3, 1 show the same digit and 0" in view.picture.value

    def test_training_shows_progress_and_then_that_network(self):
        model = FakeMemory()
        view = DepthView(states(), lambda: model)
        view.strength.value = 0.6
        view.train_button.click()
        model.go.release()
        wait_for(lambda: "step 1 of 3" in view.status.value)
        model.go.release(2)
        wait_for(lambda: "Training done" in view.status.value)
        assert view.network.value == "strength 0.6 (live)" and "stem, strength 0.6" in view.picture.value

    def test_another_strength_cancels_and_errors_are_shown_escaped(self):
        model = FakeMemory()
        view = DepthView(states(), lambda: model)
        view.train_button.click()
        view.strength.value = 0.9
        assert "cancelled" in view.status.value
        model.go.release()
        wait_for(lambda: model.ended == ["Cancelled"])
        broken = FakeMemory(error=RuntimeError("no <memory>"))
        view = DepthView(states(), lambda: broken)
        view.train_button.click()
        broken.go.release()
        wait_for(lambda: "Training failed" in view.status.value)
        assert "RuntimeError: no &lt;memory&gt;" in view.status.value


def test_recorded_runs_make_states_and_a_live_model_answers_in_the_same_form():
    configs = [tiny(by_layer=True, shown=1), tiny(by_layer=True, shown=1, strength=0.0, views=1)]
    table = sweep(memorize_labels, configs, workers=0)
    recorded = recorded_states(table)
    names = [one["name"] for one in recorded["networks"]]
    assert names == ["before training", "augmented, strength 0.5", "without augmentation"]
    assert len(recorded["asked"]) == 10 and len(recorded["pictures"]) == 40
    assert [recorded["true"][image] for image in recorded["asked"]] == list(range(10))
    page = DepthExplorer(recorded).page()
    assert len(page) < 200_000 and "group 3" in page
    layers = curves(table, "layers")
    last = layers[(layers["key"] == table["key"].iloc[1]) & (layers["when"] == "end")]
    assert recorded["networks"][2]["random"][-1] == pytest.approx(100 * last["random"].iloc[-1], abs=0.05)

    live, seen = LiveMemory.of(table), []
    found = live.train(0.0, lambda done, last: seen.append((done, last)))
    assert seen == [(step, 8) for step in range(8)]
    assert found["near"] == recorded["networks"][2]["near"]  # the recorded run's images, labels and start
    other = sweep(memorize_labels, [tiny(by_layer=True, shown=1, seed=1)], workers=0)
    with pytest.raises(Refusal, match="memorise the same images"):
        recorded_states(pd.concat([table, other]))


def test_only_digits_are_shown_on_a_page(monkeypatch):
    record = type("Record", (), {"config": tiny().but(dataset="cifar10").as_dict()})
    monkeypatch.setattr("ntf_utils.papers.benign_memorization.live.runs_behind", lambda table: [record])
    with pytest.raises(Refusal, match="a page may hold those of digits only"):
        recorded_states(pd.DataFrame({"key": ["a"]}))
