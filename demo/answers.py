"""What people ask of the tables, with the SQL that answers it. Runs under spark-submit.

Every statement is one that ``query_tags --sql`` takes, too; here one Spark session answers all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import dedent, indent

from pyspark.sql import SparkSession

from pipeline.config import DecodeConfig, FetchConfig, ModelConfig
from pipeline.query import Answer, register_tables, run_query, write_answer
from pipeline.spark import open_session
from pipeline.tables.store import TableSet
from udfs.functions import register_functions

# The demo's text tower has read the texts of its labels and no others: the second text is of words
# it knows, and shows what the functions do where the model understands what it is asked.
TEXTS = ("a rooftop bar at night", "a bar with bottles and a city view")
_MAX_ROWS = 40


@dataclass(frozen=True)
class Question:
    """A question in words and in SQL."""

    words: str
    sql: str


SURE = Question(
    "Which images show a pool, by a score of 0.9 and more?",
    """
    SELECT image_id, round(score, 3) AS score, count(*) OVER () AS images_in_all
    FROM image_tags
    WHERE label = 'pool' AND score >= 0.9
    ORDER BY score DESC, image_id
    LIMIT 5
    """,
)
COUNTS = Question(
    "How often is each label published?",
    """
    SELECT label, count(*) AS images, round(avg(score), 2) AS mean_score
    FROM image_tags
    GROUP BY label
    ORDER BY images DESC, label
    """,
)
VERSIONS = Question(
    "Which versions of the tables did each night leave?",
    """
    SELECT run_id, as_of, table_versions['image_tags'] AS image_tags
    FROM runs
    WHERE state = 'published'
    ORDER BY run_seq
    """,
)
FAILED = Question(
    "Why did images fail, and can another try help?",
    """
    SELECT reason, retriable, count(*) AS images, max(attempts) AS attempts,
           min(image_id) AS for_example
    FROM tagging_failures
    GROUP BY reason, retriable
    ORDER BY images DESC, reason
    """,
)
FAILED_ONE = Question(
    "Why did this image fail?",
    """
    SELECT image_id, reason, detail
    FROM tagging_failures
    WHERE image_id = 'damaged-truncated-jpeg'
    """,
)
# Looks for an image that is worth a search: a billiard table where there is one.
_WORTH_A_SEARCH = """
    SELECT e.image_id FROM image_embeddings AS e LEFT JOIN image_tags AS t USING (image_id)
    ORDER BY coalesce(t.label = 'billiard_table', false) DESC, t.score DESC, e.image_id
    LIMIT 1
    """


def changes(tables: str, *, first: int, last: int) -> Iterator[Question]:
    """What a night changed, from the change data feed of ``image_tags``.

    Args:
        tables: Folder of the table set.
        first: First version of the table that the night wrote.
        last: Last one.
    """
    feed = f"table_changes_by_path('{tables}/image_tags', {first}, {last})"
    yield Question(
        "What changed on the second night?",
        f"""
    SELECT _change_type AS change, count(*) AS tags, count(DISTINCT image_id) AS images
    FROM {feed}
    WHERE _change_type <> 'update_preimage'
    GROUP BY _change_type
    ORDER BY change
    """,
    )
    yield Question(
        "Which tags stood there before and after, where tags went?",
        f"""
    SELECT image_id,
           sort_array(collect_list(label) FILTER
             (WHERE _change_type IN ('delete', 'update_preimage'))) AS before,
           sort_array(collect_list(label) FILTER
             (WHERE _change_type IN ('insert', 'update_postimage'))) AS after
    FROM {feed}
    GROUP BY image_id
    HAVING bool_or(_change_type = 'delete')
    ORDER BY size(after) DESC, image_id
    LIMIT 8
    """,
    )
    yield Question(
        "Which images left the catalogue, and which tags went with them?",
        f"""
    SELECT image_id, sort_array(collect_list(t.label)) AS removed
    FROM {feed} AS t JOIN images USING (image_id)
    WHERE t._change_type = 'delete' AND images.status = 'deleted'
    GROUP BY image_id
    ORDER BY image_id
    LIMIT 5
    """,
    )


def like_image(image_id: str) -> Question:
    """Images near another one; the first row is the image itself."""
    return Question(
        f"Which images are like {image_id}?",
        f"""
    SELECT other.image_id,
           round(cosine_similarity(other.embedding, this.embedding), 3) AS similarity,
           (SELECT sort_array(collect_list(label)) FROM image_tags AS t
            WHERE t.image_id = other.image_id) AS tags
    FROM image_embeddings AS this JOIN image_embeddings AS other USING (model_version)
    WHERE this.image_id = '{image_id}'
    ORDER BY similarity DESC, image_id
    LIMIT 6
    """,
    )


def like_text(text: str) -> Question:
    """Images near a text."""
    return Question(
        f"Which images are like “{text}”?",
        f"""
    SELECT image_id, round(cosine_similarity(embedding, query), 3) AS similarity,
           round(zero_shot_score(embedding, '{text}'), 3) AS score,
           (SELECT sort_array(collect_list(label)) FROM image_tags AS t
            WHERE t.image_id = e.image_id) AS tags
    FROM image_embeddings AS e, (SELECT embed_text('{text}') AS query)
    ORDER BY similarity DESC, image_id
    LIMIT 6
    """,
    )


def answer(spark: SparkSession, question: Question) -> Answer:
    """Ask, and print question, statement and rows."""
    print(f"\n-- {question.words}\n\n{indent(dedent(question.sql).strip(), '    ')}\n")
    found = run_query(spark, question.sql, max_rows=_MAX_ROWS)
    write_answer(found, sys.stdout, format="table")
    sys.stdout.flush()
    return found


def main() -> None:
    """Ask everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", required=True)
    parser.add_argument("--model", required=True)
    options = parser.parse_args()
    spark = open_session("mumic demo")
    register_tables(TableSet(spark, options.tables), "SHOW TABLES")  # all of them
    register_functions(spark, ModelConfig(uri=options.model), FetchConfig(), DecodeConfig())
    answer(spark, SURE)
    answer(spark, COUNTS)
    left = {run_id: version for run_id, _, version in answer(spark, VERSIONS).rows}
    first, last = left["night-1"] + 1, left["night-2"]
    if first <= last:
        for question in changes(options.tables, first=first, last=last):
            answer(spark, question)
    answer(spark, FAILED)
    answer(spark, FAILED_ONE)
    found = run_query(spark, _WORTH_A_SEARCH, max_rows=1)
    answer(spark, like_image(found.rows[0][0]))
    for text in TEXTS:
        answer(spark, like_text(text))
    print("\nThe demo's small model has read its labels' names only: bars it knows, rooftops not.")


if __name__ == "__main__":
    main()
