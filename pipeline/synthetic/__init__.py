"""Drawn hotel photos with labels, titles and manifests, for the demo, tests and benchmarks.

``write_catalogue`` makes a whole catalogue, ``draw_scene`` one scene, ``draw_photo`` one picture
with the entropy of a photograph, ``write_damaged`` damaged inputs with the reason each must have,
``write_mutated`` hundreds of them that only must not matter to others. Knows neither Spark nor
torch.
"""

from pipeline.synthetic.catalogue import write_catalogue
from pipeline.synthetic.colours import seeded
from pipeline.synthetic.damaged import DamagedInput, write_damaged
from pipeline.synthetic.mutated import write_mutated
from pipeline.synthetic.photo import draw_photo
from pipeline.synthetic.scenes import Scene, draw_scene
from pipeline.synthetic.specification import Catalogue, CatalogueSpec, Picture
from pipeline.synthetic.stage import DrawnObject
from pipeline.synthetic.vocabulary import ATTRIBUTES, LABELS, make_taxonomy

__all__ = [
    "ATTRIBUTES",
    "LABELS",
    "Catalogue",
    "CatalogueSpec",
    "DamagedInput",
    "DrawnObject",
    "Picture",
    "Scene",
    "draw_photo",
    "draw_scene",
    "make_taxonomy",
    "seeded",
    "write_catalogue",
    "write_damaged",
    "write_mutated",
]
