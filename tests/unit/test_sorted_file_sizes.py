"""Sorted tables are cut into files that queries can skip."""

from __future__ import annotations

import pytest

from pipeline.tables.compaction import SORTED_FILES, sorted_file_bytes

MIB = 2**20


@pytest.mark.parametrize(
    ("table_bytes", "file_bytes"),
    [
        (0, MIB),
        (100 * MIB, MIB),
        (8 * MIB * SORTED_FILES, 8 * MIB),
        (10**13, 256 * MIB),
    ],
)
def test_files_grow_with_their_table_between_two_sizes(table_bytes: int, file_bytes: int) -> None:
    assert sorted_file_bytes(table_bytes) == file_bytes
