"""The words of the synthetic catalogue: its labels, their names, its taxonomy, and the attributes.

The taxonomy of ``conf/taxonomies/hotel.yaml`` says the same; a test keeps the two in step.
"""

from __future__ import annotations

from typing import Any

from pipeline.synthetic.colours import WALL_COLOURS
from pipeline.synthetic.views import VIEWS

# Label id -> its name as it stands in a sentence, most frequent first.
LABELS: dict[str, str] = {
    "bed": "a bed",
    "sea_view": "a sea view",
    "plant": "a potted plant",
    "lamp": "a floor lamp",
    "painting": "a framed painting",
    "pool": "a swimming pool",
    "armchair": "an armchair",
    "balcony": "a balcony railing",
    "sun_lounger": "a sun lounger",
    "television": "a television",
    "city_view": "a city view",
    "palm_tree": "a palm tree",
    "mountain_view": "a mountain view",
    "sofa": "a sofa",
    "parasol": "a parasol",
    "bathtub": "a bathtub",
    "washbasin": "a washbasin",
    "mirror": "a mirror",
    "dining_table": "a laid dining table",
    "toilet": "a toilet",
    "chandelier": "a chandelier",
    "desk": "a desk",
    "bar": "a bar with bottles",
    "treadmill": "a treadmill",
    "fireplace": "a fireplace",
    "piano": "a grand piano",
    "billiard_table": "a billiard table",
    "cot": "a baby cot",
}

TASK = "scene"
TEMPLATE = "a photo of {}."
THRESHOLD = 0.5

ROOM_TYPES = ("standard", "superior", "deluxe", "family", "suite", "studio")
# Values an image can have under each attribute; an image lacks those that do not apply to it.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "room_type": ROOM_TYPES,
    "view": VIEWS,
    "wall_colour": tuple(WALL_COLOURS),
}


def make_taxonomy() -> dict[str, Any]:
    """Returns the catalogue's taxonomy as its YAML file holds it."""
    return {
        "tasks": [
            {
                "id": TASK,
                "kind": "multi_label",
                "threshold": THRESHOLD,
                "templates": [TEMPLATE],
                "labels": [{"id": label, "name": name} for label, name in LABELS.items()],
            }
        ]
    }
