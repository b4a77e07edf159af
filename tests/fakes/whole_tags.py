"""Whether any version of image_tags ever showed a part of an image's tags."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from demo.verify import read_rows, read_versions

Tags = dict[str, frozenset[tuple[str, str, str, str]]]


def assert_tags_whole(tables: Path, *, since: int = 0, undisturbed: Path | None = None) -> None:
    """In every version an image has its tags of the first one looked at, or those of the last.

    Args:
        tables: Folder of the table set.
        since: The first version looked at.
        undisturbed: Tables of the same runs, published by turns: what an image has in any version
            of theirs is whole too.
    """
    versions = read_tags(tables, since=since)
    known = [versions[0], versions[-1], *(read_tags(undisturbed) if undisturbed else ())]
    images = {image for tags in versions for image in tags}
    for number, tags in enumerate(versions, since):
        for image in images:
            assert tags.get(image) in [one.get(image) for one in known], (number, image)


def read_tags(tables: Path, *, since: int = 0) -> list[Tags]:
    latest = read_versions(tables)["image_tags"]
    return [tags_by_image(tables, version) for version in range(since, latest + 1)]


def tags_by_image(tables: Path, version: int) -> Tags:
    found = defaultdict(set)
    for tag in read_rows(tables, "image_tags", version=version):
        told = (tag["task"], tag["label"], tag["image_version"], tag["run_id"])
        found[tag["image_id"]].add(told)
    return {image: frozenset(tags) for image, tags in found.items()}
