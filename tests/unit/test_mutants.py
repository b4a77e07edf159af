"""The list of mutants fits the source and the tests; trying them is scripts/mutate.py's."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MUTANTS = yaml.safe_load((ROOT / "tests" / "mutants.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("mutant", MUTANTS, ids=[one["promise"] for one in MUTANTS])
def test_a_mutant_names_a_line_and_a_test_that_exist(mutant: dict[str, str]) -> None:
    source = (ROOT / mutant["file"]).read_text(encoding="utf-8")
    path, _, name = mutant["test"].partition("::")
    tests = ast.parse((ROOT / path).read_text(encoding="utf-8"))

    assert source.count(mutant["line"]) == 1
    ast.parse(source.replace(mutant["line"], mutant["instead"]))
    assert not name or name in {
        node.name for node in tests.body if isinstance(node, ast.FunctionDef)
    }
