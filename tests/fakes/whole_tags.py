"""Whether any version of image_tags ever showed a part of an image's tags."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from demo.verify import read_rows, read_versions

Tags = dict[str, frozenset[tuple[str, str, str, str]]]


def assert_tags_whole(tables: Path, *, since: int = 0) -> None:
    """In every version an image has its tags of the first one looked at, or those of the last."""
    latest = read_versions(tables)["image_tags"]
    versions = [tags_by_image(tables, version) for version in range(since, latest + 1)]
    images = {image for tags in versions for image in tags}
    for number, tags in enumerate(versions, since):
        for image in images:
            ends = (versions[0].get(image), versions[-1].get(image))
            assert tags.get(image) in ends, (number, image)


def tags_by_image(tables: Path, version: int) -> Tags:
    found = defaultdict(set)
    for tag in read_rows(tables, "image_tags", version=version):
        told = (tag["task"], tag["label"], tag["image_version"], tag["run_id"])
        found[tag["image_id"]].add(told)
    return {image: frozenset(tags) for image, tags in found.items()}
