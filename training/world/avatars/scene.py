"""Canvas, shapes and colours that the layers of one avatar share."""

import skia

from training.world.avatars.attributes import Look
from training.world.avatars.colours import HAIR, HUES, SKIN, darker, lighter, mix, scale
from training.world.avatars.geometry import Face


class Scene:
    """One avatar on its way onto a canvas in drawing units (see `geometry`).

    Args:
        canvas: already scaled to drawing units.
        look: the attributes, each in [0, 1].
    """

    def __init__(self, canvas: skia.Canvas, look: Look):
        self.canvas = canvas
        self.look = look
        self.face = Face(look)
        self.sun = 2 * look.light - 1  # -1 light from the left, 1 from the right
        self.gleam = min(max(3 * self.sun, -1.0), 1.0)  # side of the highlights in the eyes
        self.skin = scale(SKIN, look.skin_tone)
        self.shade = mix(darker(self.skin, 0.30), (0.62, 0.16, 0.12), 0.12)
        self.shine = mix(lighter(self.skin, 0.40), (1.0, 0.93, 0.80), 0.35)
        self.natural = scale(HAIR, look.hair_colour)  # hair before it is dyed
        self.hair = mix(self.natural, scale(HUES, look.dye_hue), look.hair_dye)
