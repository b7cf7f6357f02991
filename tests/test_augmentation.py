"""Batched augmentation does what torchvision does to single images, and is drawn from its generator alone."""

import pytest
import torch

from ntf_utils.data.torchvision_door import transforms
from ntf_utils.training.augmentation import cropped, flip, mirrored, shift_crop

functional = transforms.functional


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=[torch.uint8, torch.float32], ids=["uint8", "float32"])
def pixels(request):
    """[40, 3, 6, 8], no two values of an image alike."""
    return (
        torch.stack([torch.randperm(3 * 6 * 8, generator=generator(seed)) for seed in range(40)])
        .add(1)
        .to(request.param)
        .view(40, 3, 6, 8)
    )


def test_mirrored_equals_torchvision_image_by_image(pixels):
    where = torch.rand(40, generator=generator()) < 0.5
    expected = [functional.hflip(image) if turn else image for image, turn in zip(pixels, where, strict=True)]
    assert torch.equal(mirrored(pixels, where), torch.stack(expected))


@pytest.mark.parametrize("padding", [0, 1, 4, 9])  # 9: more than the image's height
def test_cropped_equals_torchvision_image_by_image(pixels, padding):
    corners = torch.randint(2 * padding + 1, (40, 2), generator=generator())
    expected = [
        functional.crop(functional.pad(image, [padding] * 4), row, column, 6, 8)
        for image, (row, column) in zip(pixels, corners.tolist(), strict=True)
    ]
    found = cropped(pixels, padding, corners)
    assert torch.equal(found, torch.stack(expected)) and found.dtype == pixels.dtype


def test_half_of_the_images_are_flipped_each_on_its_own():
    image = torch.arange(12, dtype=torch.uint8).view(1, 1, 3, 4).expand(4000, 1, 3, 4)
    turned = (flip(image, generator()) != image).flatten(1).any(1)
    assert 0.46 < turned.float().mean() < 0.54  # five standard deviations
    repeats = (turned[1:] == turned[:-1]).float().mean()
    assert 0.46 < repeats < 0.54  # neighbours do not depend on each other


def test_every_shift_is_equally_likely():
    dot = torch.zeros(9000, 1, 7, 7)
    dot[:, :, 3, 3] = 1  # stays in sight
    at = shift_crop(dot, 1, generator()).flatten(1).argmax(1)
    counts = at.bincount(minlength=49).view(7, 7)
    assert counts.sum() == counts[2:5, 2:5].sum() == 9000
    assert counts[2:5, 2:5].min() > 850 and counts[2:5, 2:5].max() < 1150  # five standard deviations


@pytest.mark.parametrize("augment", [flip, lambda pixels, source: shift_crop(pixels, 2, source)], ids=["flip", "shift"])
class TestBoth:
    def test_the_generator_decides(self, augment, pixels):
        before = pixels.clone()
        torch.manual_seed(1)
        source = generator(5)
        first, second = augment(pixels, source), augment(pixels, source)
        torch.manual_seed(2)  # torch's own generator plays no part
        assert torch.equal(augment(pixels, generator(5)), first)
        assert not torch.equal(first, second) and not torch.equal(augment(pixels, generator(6)), first)
        assert torch.equal(pixels, before)

    def test_members_with_their_own_generators_do_not_depend_on_the_stack(self, augment, pixels):
        stack = torch.stack([pixels, pixels, pixels.flip(0)])
        together = augment(stack, [generator(seed) for seed in (3, 3, 4)])
        alone = [augment(member, generator(seed)) for member, seed in zip(stack, (3, 3, 4), strict=True)]
        assert torch.equal(together, torch.stack(alone))

    def test_one_generator_serves_a_stack_with_other_draws_for_each_member(self, augment, pixels):
        found = augment(pixels.expand(2, -1, -1, -1, -1), generator())
        assert found.shape == (2, *pixels.shape) and not torch.equal(found[0], found[1])

    def test_too_few_generators_are_refused(self, augment, pixels):
        with pytest.raises(ValueError, match="2 generators do not fit 3 members"):
            augment(pixels.expand(3, -1, -1, -1, -1), [generator(), generator()])


def test_no_padding_changes_nothing_and_a_negative_one_is_refused(pixels):
    assert torch.equal(shift_crop(pixels, 0, generator()), pixels)
    with pytest.raises(ValueError, match=r"padding must be at least 0 \(got -1\)"):
        shift_crop(pixels, -1, generator())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cpu_generator_gives_the_same_on_a_gpu():
    pixels = torch.randint(256, (50, 3, 8, 8), dtype=torch.uint8, generator=generator())
    for augment in (flip, lambda given, source: shift_crop(given, 2, source)):
        found = augment(pixels.cuda(), generator(1))
        assert found.is_cuda and torch.equal(found.cpu(), augment(pixels, generator(1)))
        own = augment(pixels.cuda(), torch.Generator("cuda").manual_seed(1))
        assert own.is_cuda and own.shape == pixels.shape
