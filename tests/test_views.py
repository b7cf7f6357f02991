"""Batched views equal torchvision's single images and are drawn as it draws them; invariance and its split."""

import math

import pytest
import torch

from ntf_utils.data.torchvision_door import transforms
from ntf_utils.measures.invariance import bias_and_spread, invariance_index
from ntf_utils.refusal import Refusal
from ntf_utils.training.views import ViewDraws, apply_views, draw_views

functional = transforms.functional


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def as_torchvision(image, draws, place):
    """One image, changed by torchvision's own functions with the same parameters."""
    side = image.shape[-1]
    corner, size = draws.corner[place].tolist(), draws.size[place].tolist()
    image = functional.resized_crop(image, *corner, *size, [side, side])
    if draws.flipped[place]:
        image = functional.hflip(image)
    brightness, contrast, saturation = draws.factors[place].tolist()
    steps = [
        lambda x: functional.adjust_brightness(x, brightness),
        lambda x: functional.adjust_contrast(x, contrast),
        lambda x: functional.adjust_saturation(x, saturation),
        lambda x: functional.adjust_hue(x, draws.hue[place].item()),
    ]
    for kind in draws.order[place].tolist():
        image = steps[kind](image)
    return functional.rgb_to_grayscale(image, len(image)) if draws.grey[place] else image


@pytest.mark.parametrize("channels", [1, 3])
def test_views_equal_torchvision_image_by_image(channels):
    images = torch.rand(80, channels, 16, 16, generator=generator())
    images[:8] = images[:8, :1]  # without colour: hue has nothing to turn
    images[8:12] = 0
    draws = draw_views(80, 16, 1.0, generator(1))
    expected = torch.stack([as_torchvision(image, draws, place) for place, image in enumerate(images)])
    torch.testing.assert_close(apply_views(images, draws), expected, rtol=0, atol=1e-5)
    assert {*draws.order[:, 0].tolist()} == {0, 1, 2, 3} and draws.flipped.any() and draws.grey.any()


def test_no_strength_changes_nothing_and_the_generator_decides():
    images = torch.rand(20, 3, 8, 8, generator=generator())
    torch.testing.assert_close(apply_views(images, draw_views(20, 8, 0.0, generator())), images, rtol=0, atol=1e-6)
    first, again, other = (apply_views(images, draw_views(20, 8, 0.7, generator(seed))) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_draws_have_the_spread_of_torchvisions():
    """Crops and factors at full strength, against torchvision's own random parameters."""
    draws = draw_views(4000, 32, 1.0, generator())
    torch.manual_seed(0)
    crops = [
        transforms.RandomResizedCrop.get_params(torch.empty(3, 32, 32), [0.08, 1.0], [3 / 4, 4 / 3])
        for _ in range(4000)
    ]
    row, _, height, width = torch.tensor(crops).unbind(1)
    for ours, theirs in ((draws.size[:, 0], height), (draws.size[:, 1], width), (draws.corner[:, 0], row)):
        error = math.hypot(ours.float().std().item(), theirs.float().std().item()) / math.sqrt(4000)
        assert abs(ours.float().mean() - theirs.float().mean()) < 5 * error
        assert ours.min() == theirs.min() and ours.max() == theirs.max()
    changed = (draws.factors != 1).any(dim=1)
    assert 0.77 < changed.float().mean() < 0.83  # five standard deviations around 0.8
    assert 0.2 <= draws.factors.min() < 0.25 and 1.75 < draws.factors.max() <= 1.8
    assert draws.hue.abs().max() <= 0.2 and 0.17 < draws.grey.float().mean() < 0.23
    assert len({tuple(order) for order in draws.order.tolist()}) == 24


def test_a_crop_that_never_fits_is_the_whole_image():
    draws = draw_views(300, 1, 1.0, generator())  # of a single pixel every smaller crop rounds to 0 or 1
    assert (draws.size == 1).all() and (draws.corner == 0).all()


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_a_strength_outside_its_range_is_refused(strength):
    with pytest.raises(Refusal, match="strength must lie between 0"):
        draw_views(1, 8, strength, generator())


def test_the_draws_move_between_devices_as_one():
    moved = draw_views(3, 8, 1.0, generator()).to(torch.device("cpu"))
    assert isinstance(moved, ViewDraws) and moved.order.shape == (3, 4)


# invariance


def test_the_index_is_0_for_views_alike_and_1_for_features_that_know_only_the_view():
    images, views = torch.randn(6, 5), torch.randn(400, 1, 5)
    assert invariance_index(images.expand(3, 6, 5)) == 0
    assert invariance_index(views.expand(400, 6, 5)) == pytest.approx(1)
    half = invariance_index(images * 3 + torch.randn(50, 6, 5))
    assert 0.1 < half < 0.9
    assert invariance_index(7 * (images + views)) == pytest.approx(invariance_index(images + views), rel=1e-5)


@pytest.mark.parametrize(
    ("views", "words"),
    [
        (torch.zeros(1, 3, 2), "two views of two images"),
        (torch.zeros(3, 1, 2), "two views of two images"),
        (torch.full((2, 2, 2), torch.nan), "NaN or infinity"),
        (torch.ones(2, 2, 2), "all images have the same features"),
    ],
)
def test_an_index_that_is_not_defined_is_refused(views, words):
    with pytest.raises(Refusal, match=words):
        invariance_index(views)


def test_the_squared_error_over_views_splits_into_bias_and_spread():
    """E |f - y|^2 = |E f - y|^2 + E |f - E f|^2: our split of the chapter's objective, checked on numbers."""
    outputs, targets = torch.randn(7, 40, 10, generator=generator()), torch.randn(40, 10, generator=generator(1))
    bias, spread = bias_and_spread(outputs, targets)
    assert bias + spread == pytest.approx((outputs - targets).square().mean().item(), rel=1e-6)
    other_bias, other_spread = bias_and_spread(outputs, targets + 1)
    assert other_spread == spread and other_bias != bias  # the second term knows no labels
    assert bias_and_spread(targets.expand(3, 40, 10), targets) == pytest.approx((0, 0), abs=1e-12)
