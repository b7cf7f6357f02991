"""Pictures of images, for explorers that run beside the data."""

import base64
import io

from PIL import Image

from ntf_utils.data.images import Images


def pictures_of(images: Images) -> list[str]:
    """Each image as the data address of a PNG; single channels are shown in grey."""
    found = []
    for pixels in images.pixels.cpu():
        shown = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
        buffer = io.BytesIO()
        Image.fromarray(shown.numpy()).save(buffer, format="PNG")
        found.append("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode())
    return found
