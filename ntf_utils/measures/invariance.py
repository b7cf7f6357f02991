"""How much of what a network says of an image depends on the view it is shown.

`invariance_index` compares views of one image with views of others. `bias_and_spread` is the exact split of a squared
error over random views into what the mean view gets wrong and how much views differ (our derivation, elementary):

    E_G |f(G x) - y|^2  =  |f_bar(x) - y|^2  +  E_G |f(G x) - f_bar(x)|^2,      f_bar(x) = E_G f(G x)

The second term knows no labels: it is the penalty for being sensitive to the augmentation.
"""

from torch import Tensor

from ntf_utils.refusal import Refusal


def invariance_index(views: Tensor) -> float:
    """Mean distance between two views of an image over that between views of two images.

    0 where the features do not see the augmentation, 1 where they see nothing else.

    Args:
        views: [v, n, d] features of v >= 2 views of n >= 2 images. Each pair of consecutive views of an image counts,
            and for other images the next one in the list.

    Raises:
        Refusal: fewer than two views or images; NaN in the features; features that are all alike.
    """
    if views.dim() != 3 or min(views.shape[:2]) < 2:
        raise Refusal(f"the invariance index needs two views of two images and more (got {list(views.shape)})")
    if not bool(views.isfinite().all()):
        raise Refusal("features hold NaN or infinity: no distance can be taken")
    first, second = views[:-1], views[1:]
    apart = (first - second.roll(1, dims=1)).norm(dim=2).double().mean()
    if apart == 0:
        raise Refusal("all images have the same features: the invariance index is not defined")
    return ((first - second).norm(dim=2).double().mean() / apart).item()


def bias_and_spread(outputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Mean squared error over views as bias and spread; their sum is the mean squared error.

    Args:
        outputs: [v, n, c] what is said of v views of n images. targets: [n, c].

    Returns:
        Mean over images and outputs of |f_bar - y|^2 and of the mean over views of |f - f_bar|^2, in the unit of the
        mean squared error, with f_bar the mean over the views given.
    """
    mean = outputs.double().mean(dim=0)
    bias = (mean - targets.double()).square().mean()
    return bias.item(), (outputs.double() - mean).square().mean().item()
