"""Many drawings at once."""

import numpy as np

from mmjax.data.sources.emoji_join import Concept, Drawing
from mmjax.data.sources.emoji_render import crop
from mmjax.data.sources.rendering import FEW, on_all_cores


def test_many_processes_render_what_one_does():
    concept = Concept(id=0, code="1F355", name="pizza", keywords=(), flag=False, held_out=False)
    bodies = [f'<path fill="#{i:03x}" d="M0 0h{1 + i % 9}v5z"/>' for i in range(FEW + 5)]
    drawings = [Drawing("round", concept, body, (0, 0, 16, 16)) for body in bodies]
    for together, alone in zip(on_all_cores(crop, drawings, 16, what="shapes"), drawings, strict=True):
        np.testing.assert_array_equal(together, crop(alone, 16))
