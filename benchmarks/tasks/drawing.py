"""Characters drawn with the fonts that come with matplotlib: images from a seed, with nothing to download."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from matplotlib.font_manager import get_font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)

#: Those that no size or turn makes into another one: of "o", "O" and "0", one; no Greek letter that Latin has, too.
CHARACTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabdefghijmnqrtyΓΔΘΛΞΠΣΦΨΩαβγδεζθλμξπσφψω"

#: Pixels of a drawn character before it is turned and placed.
SIZE = 48


@cache
def atlas(characters: str = CHARACTERS) -> Tensor:
    """Returns every character in every font that has it: ``(characters, fonts, 1, 48, 48)``, from 0 to 1."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    drawn = torch.zeros(len(characters), len(FONTS), 1, SIZE, SIZE)
    for column, name in enumerate(FONTS):
        path = folder / f"{name}.ttf"
        font, known = ImageFont.truetype(str(path), 34), get_font(str(path))
        for row, character in enumerate(characters):
            if not known.get_char_index(ord(character)):
                raise ValueError(f"{name} has no {character!r}")
            image = Image.new("L", (SIZE, SIZE))
            ImageDraw.Draw(image).text((SIZE / 2, SIZE / 2), character, fill=255, font=font, anchor="mm")
            drawn[row, column, 0] = (
                torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(SIZE, SIZE) / 255
            )
    return drawn


def draw(
    labels: Tensor,
    size: int,
    generator: torch.Generator,
    *,
    characters: str = CHARACTERS,
    turn: float = 25.0,
    scale: tuple[float, float] = (0.55, 1.05),
    shear: float = 0.3,
    shift: float = 0.2,
) -> Tensor:
    """Returns characters in a random font, turned, sheared, scaled and moved at random: ``(N, 1, size, size)``, 0 to 1.

    Args:
        labels: which characters, ``(N,)``.
        size: pixels of an image.
        generator: of all that is random.
        characters: what labels number.
        turn: degrees, to either side.
        scale: of a character, next to filling the image.
        shear: to either side.
        shift: share of the image, to either side and up and down.
    """
    count = len(labels)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    fonts = torch.randint(len(FONTS), (count,), generator=generator)
    angle = between(-turn, turn) * math.pi / 180
    zoom = 1 / between(*scale)
    sheared = between(-shear, shear)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    first = torch.stack([cos, -sin + sheared * cos, between(-shift, shift) * 2], 1)
    second = torch.stack([sin, cos + sheared * sin, between(-shift, shift) * 2], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), [count, 1, size, size], align_corners=False)
    return F.grid_sample(atlas(characters)[labels, fonts], grid, align_corners=False)
