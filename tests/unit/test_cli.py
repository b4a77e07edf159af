"""What every command does with its arguments, its files, its errors and its summary."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

import docstring_parser
import pytest

from pipeline.arguments import parse_config
from pipeline.cli import run_job
from pipeline.config import (
    EvaluateModelConfig,
    LogConfig,
    ModelConfig,
    QueryTagsConfig,
    RegisterModelConfig,
    TablesConfig,
    TagNightlyConfig,
    TrainModelConfig,
)
from pipeline.errors import BundleError, ConfigurationError, HeldByAudit, PipelineError
from pipeline.redaction import redact, redacted

REQUIRED = ("--tables.location", "t", "--manifest.path", "m", "--model.uri", "b")
CONFIG_CLASSES = {
    "tag_nightly": TagNightlyConfig,
    "query_tags": QueryTagsConfig,
    "train_model": TrainModelConfig,
    "evaluate_model": EvaluateModelConfig,
    "register_model": RegisterModelConfig,
}


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)


@pytest.fixture
def write_yaml(tmp_path: Path) -> Callable[..., str]:
    def write(text: str, name: str = "job.yaml") -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def parse(*argv: str) -> TagNightlyConfig:
    return parse_config("mumic-tag-nightly", TagNightlyConfig, argv)


def refused(*argv: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_arguments_win_over_files_and_later_files_over_earlier(
    write_yaml: Callable[..., str],
) -> None:
    base = write_yaml(
        "tables: {location: from-base}\nfetch: {threads: 4, attempts: 2}\nmodel: {uri: b}", "1.yaml"
    )
    night = write_yaml("manifest: {path: m}\nfetch: {attempts: 5}\nlimit: 7", "2.yaml")

    config = parse("--config", base, "--config", night, "--limit", "9")

    assert config.tables.location == "from-base"
    assert (config.fetch.threads, config.fetch.attempts, config.limit) == (4, 5, 9)
    assert (
        config.fetch.read_timeout_s
        == TagNightlyConfig.__dataclass_fields__["fetch"].default_factory().read_timeout_s
    )  # type: ignore[misc]


def test_an_argument_before_a_file_loses_to_the_file(write_yaml: Callable[..., str]) -> None:
    assert parse("--limit", "9", *REQUIRED, "--config", write_yaml("limit: 7")).limit == 7


def test_lists_and_flags_are_written_as_people_expect() -> None:
    config = parse(*REQUIRED, "--fetch.allowed_hosts", '["*.x.com"]', "--dry_run", "--limit", "3")

    assert config.fetch.allowed_hosts == ("*.x.com",)
    assert (config.dry_run, config.force, config.limit) == (True, False, 3)
    assert parse(*REQUIRED, "--dry_run", "false").dry_run is False


def test_run_ids_and_dates_that_look_like_numbers_stay_text(
    write_yaml: Callable[..., str],
) -> None:
    config = parse(*REQUIRED, "--run_id", "2026", "--config", write_yaml("as_of: 2026-11-21"))

    assert (config.run_id, config.as_of) == ("2026", "2026-11-21")


def test_a_configuration_has_the_type_of_its_dataclass_all_the_way_down() -> None:
    config = parse(*REQUIRED)

    assert config == TagNightlyConfig(
        tables=type(config.tables)(location="t"),
        manifest=type(config.manifest)(path="m"),
        model=type(config.model)(uri="b"),
    )


def descriptions(config_class: type[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Option and description of every setting, from the docstrings."""
    described = {
        one.arg_name: one.description for one in docstring_parser.parse(config_class.__doc__).params
    }
    for name, kind in get_type_hints(config_class).items():
        nested = [one for one in (kind, *get_args(kind)) if dataclasses.is_dataclass(one)]
        if nested:
            yield from descriptions(nested[0], f"{prefix}{name}.")
        else:
            yield f"--{prefix}{name}", " ".join((described[name] or "").split())


@pytest.mark.parametrize("job", CONFIG_CLASSES)
def test_every_setting_is_described_in_help(
    job: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # lines are broken at hyphens too
    config_class: type[Any] = CONFIG_CLASSES[job]

    code = run_job(job, config_class, lambda _: None, ["--help"])

    shown = " ".join(capsys.readouterr().out.split("options:")[1].split())
    expected = list(descriptions(config_class))
    assert code == 0
    assert len(expected) > 20
    missing = [
        (o, d) for o, d in expected if not (d and re.search(f"{o} .{{,80}}{re.escape(d)}", shown))
    ]
    assert missing == []


def test_printed_configuration_can_be_read_again(
    capsys: pytest.CaptureFixture[str], write_yaml: Callable[..., str]
) -> None:
    argv = [*REQUIRED, "--fetch.allowed_hosts", '["*.x.com"]', "--limit", "5"]

    code = run_job("tag_nightly", TagNightlyConfig, lambda _: None, [*argv, "--print_config"])

    printed = capsys.readouterr().out
    assert code == 0
    assert parse("--config", write_yaml(printed)) == parse(*argv)


def test_a_section_of_another_job_in_a_shared_file_is_skipped(
    write_yaml: Callable[..., str],
) -> None:
    shared = write_yaml("taxonomy: t.yaml\noptimizer: {epochs: 3}\nlimit: 2")

    assert parse(*REQUIRED, "--config", shared).limit == 2


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("manifset: {path: m}", "no such setting [manifset]; did you mean manifest?"),
        ("fetch: {treads: 3}", "no such setting [fetch.treads]; did you mean fetch.threads?"),
        ("fetch: {threads: many}", "a wrong value [fetch.threads]; expected int; got many"),
        ("model: {device: tpu}", "[model.device]; expected one of auto, cpu, cuda; got tpu"),
        ("fetch: 3", "[fetch]; expected settings; got 3"),
        ("run_id: 2026", "[run_id]; expected text (in YAML put a number that is a name in quotes)"),
        ("ids: 7", "[ids]; expected a list such as"),
        ("[1, 2]", "is no mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_file_and_setting(
    yaml: str, said: str, write_yaml: Callable[..., str]
) -> None:
    path = write_yaml(yaml)

    message = refused(*REQUIRED, "--config", path)

    assert said in message
    assert path in message


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--fetch.treads", "3"), "no such setting [fetch.treads]; did you mean fetch.threads?"),
        (("--fetch.threads", "3.5"), "a wrong value [fetch.threads]; expected int; got 3.5"),
        (("--dry_run", "maybe"), "a wrong value [dry_run]; expected bool; got maybe"),
        (("--dry",), "no such setting [dry]"),
        (("--config", "/no/such.yaml"), "cannot be read [/no/such.yaml]; got No such file"),
        (("--config",), "expected one argument"),
    ],
)
def test_a_wrong_argument_is_one_line_that_names_it(argv: tuple[str, ...], said: str) -> None:
    assert said in refused(*REQUIRED, *argv)


def test_missing_settings_are_named() -> None:
    assert "manifest.path, model.uri" in refused("--tables.location", "t")


def test_tables_have_a_folder_or_a_schema() -> None:
    elsewhere = ("--manifest.path", "m", "--model.uri", "b")

    assert "tables.location (a folder) or tables.schema" in refused(*elsewhere)
    named = parse("--tables.schema", "main.tagging", *elsewhere)
    assert named.tables == TablesConfig(schema="main.tagging")


def query(*argv: str) -> QueryTagsConfig:
    return parse_config("mumic-query-tags", QueryTagsConfig, ("--tables.location", "t", *argv))


def test_a_section_that_may_be_null_is_null_until_it_is_given(
    write_yaml: Callable[..., str],
) -> None:
    given = write_yaml("model: {uri: b, device: cpu}", "given.yaml")
    null = write_yaml("model: null", "null.yaml")

    model = query("--config", given, "--model.batch_size", "2").model

    assert query().model is None
    assert model == ModelConfig(uri="b", device="cpu", batch_size=2)
    assert query("--config", null).model is None
    assert query("--config", null, "--config", given).model == ModelConfig(uri="b", device="cpu")
    assert query("--config", given, "--config", null, "--model.device", "auto").model is None


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--model.device", "tpu"), "[model.device]; expected one of auto, cpu, cuda; got tpu"),
        (("--model.urx", "b"), "no such setting [model.urx]; did you mean model.uri?"),
        (("--model.device", "cpu"), "a section lacks a setting [model.uri]"),
    ],
)
def test_a_section_that_may_be_null_is_checked_like_others(
    argv: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        query(*argv)

    assert said in str(caught.value)


@dataclass(frozen=True, kw_only=True)
class SmallConfig:
    """A small job.

    Attributes:
        uri: Of something.
        log: Logs.
        summary: File.
    """

    uri: str = "s3://key:secret@bucket/x?signature=1"
    log: LogConfig = field(default_factory=LogConfig)
    summary: str | None = None


def run(body: Callable[[SmallConfig], Mapping[str, object] | None], *argv: str) -> int:
    return run_job("tag_nightly", SmallConfig, body, argv)


def fail(error: BaseException) -> Callable[[SmallConfig], None]:
    def body(config: SmallConfig) -> None:
        raise error

    return body


def test_the_summary_is_the_last_line_of_stdout_and_the_summary_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new folder" / "summary.json"

    def body(config: SmallConfig) -> Mapping[str, object]:
        sys.stdout.write("something else\n")
        return {"tagged": 3, "images_per_s": float("nan")}

    code = run(body, "--summary", str(path))

    last = capsys.readouterr().out.splitlines()[-1]
    assert code == 0
    assert json.loads(last) == {"tagged": 3, "images_per_s": None}
    assert json.loads(path.read_text()) == json.loads(last)
    assert list(path.parent.iterdir()) == [path]


SMALL_JOB = """
import sys
from dataclasses import dataclass, field
from pipeline.cli import run_job
from pipeline.config import LogConfig
from pipeline.errors import HeldByAudit

@dataclass(frozen=True, kw_only=True)
class Config:
    log: LogConfig = field(default_factory=LogConfig)
    summary: str | None = None

def body(config):
    if sys.argv[1] == "hold":
        raise HeldByAudit("held")
    return {"state": "published"}

sys.exit(run_job("tag_nightly", Config, body, ["--summary", sys.argv[2]]))
"""


@pytest.fixture(params=["full disk", "closed pipe"])
def unwritable(request: pytest.FixtureRequest) -> Iterator[int]:
    if request.param == "full disk":
        if not Path("/dev/full").exists():
            pytest.skip("only Linux has a full disk at hand")
        stream = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, stream = os.pipe()
        os.close(reading)
    yield stream
    os.close(stream)


@pytest.mark.parametrize(
    ("body", "code", "where"), [("publish", 0, "stdout"), ("hold", 3, "stderr")]
)
def test_output_that_cannot_be_written_changes_no_exit_code(
    tmp_path: Path, unwritable: int, body: str, code: int, where: str
) -> None:
    path = tmp_path / "summary.json"

    told = subprocess.run(
        [sys.executable, "-c", SMALL_JOB, body, str(path)],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, where: unwritable},
        text=True,
        check=False,
    )

    assert told.returncode == code
    if where == "stdout":
        assert "the summary cannot be told on stdout" in told.stderr
        assert "Traceback" not in told.stderr
    else:
        assert json.loads(told.stdout) == json.loads(path.read_text())


def test_a_summary_goes_to_a_uri(tmp_path: Path) -> None:
    path = tmp_path / "a b.json"

    assert run(lambda _: {"tagged": 3}, "--summary", path.as_uri()) == 0
    assert json.loads(path.read_text()) == {"tagged": 3}


def test_a_summary_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    worked: list[bool] = []

    code = run(lambda _: worked.append(True), "--summary", str(tmp_path / "file" / "x.json"))

    assert (code, worked) == (1, [])
    assert "mumic-tag-nightly: error: the place cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BundleError("a file was changed", where="bundle.json"), 1),
        (ConfigurationError("no"), 2),
        (HeldByAudit("held"), 3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_expected_error_is_one_line_and_its_exit_code(
    error: PipelineError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fail(error), "--log.level", "ERROR") == code

    written = capsys.readouterr()
    assert written.err == f"mumic-tag-nightly: error: {error}\n"
    assert json.loads(written.out)["exit_code"] == code


def test_an_unexpected_error_is_a_traceback_and_exit_code_4(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(fail(ZeroDivisionError("of s3://key:secret@bucket/x"))) == 4

    written = capsys.readouterr().err
    assert "Traceback" in written
    assert "ZeroDivisionError: of s3://bucket/x" in written


def test_an_interrupt_is_exit_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(fail(KeyboardInterrupt())) == 130
    assert "mumic-tag-nightly: interrupted" in capsys.readouterr().err


def test_a_failed_run_replaces_the_summary_of_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    run(lambda _: {"state": "published"}, "--summary", str(path))

    run(fail(BundleError("no weights")), "--summary", str(path))

    assert json.loads(path.read_text()) == {
        "job": "tag_nightly",
        "state": "failed",
        "exit_code": 1,
        "error": "no weights",
    }


def test_a_usage_error_is_exit_code_2_and_writes_no_summary(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(lambda _: {"tagged": 3}, "--summry", "x") == 2

    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("mumic-tag-nightly: error: there is no such setting [summry]")
    assert written.err.count("\n") == 1


def test_the_resolved_configuration_is_logged_without_secrets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(lambda _: None)

    written = capsys.readouterr().err
    assert "s3://bucket/x" in written
    assert "secret" not in written
    assert "signature" not in written


def test_json_logs_are_one_object_a_line_errors_and_warnings_included(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def body(config: SmallConfig) -> None:
        logging.getLogger("py4j").info("a call into the JVM")
        logging.getLogger("pipeline.x").info("read %s", "s3://key:secret@bucket/y")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("two\nlines", stacklevel=1)
        raise BundleError("no weights")

    assert run(body, "--log.format", "json") == 1

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    messages = [line["message"] for line in lines]
    assert "read s3://bucket/y" in messages
    assert "a call into the JVM" not in messages
    assert messages[-1] == "mumic-tag-nightly: error: no weights"
    assert {line["job"] for line in lines} == {"tag_nightly"}
    assert lines[-1]["exit_code"] == 1


def test_logs_follow_stderr_where_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    run(lambda _: None)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)

    logging.getLogger("pipeline.x").warning("late")

    assert "late" in stream.getvalue()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("s3://key:secret@bucket/a/b", "s3://bucket/a/b"),
        ("https://x.com/a.jpg?sig=1#part", "https://x.com/a.jpg"),
        ("at https://u@x.com/a?b, then s3://c/d", "at https://x.com/a, then s3://c/d"),
        ("abfss://photos@account.dfs.core.windows.net/x?sv=1", None),
        ("/a/plain@path?", "/a/plain@path?"),
    ],
)
def test_uris_are_shown_without_user_info_and_query(text: str, kept: str | None) -> None:
    # of abfss the part before the @ is the container
    assert redact(text) == (kept or "abfss://photos@account.dfs.core.windows.net/x")


def test_a_redacted_configuration_is_plain_json() -> None:
    config = parse(*REQUIRED, "--fetch.allowed_hosts", '["a", "b"]', "--model.uri", "s3://u:p@b/m")

    plain = redacted(config)

    assert json.loads(json.dumps(plain)) == plain
    assert plain["model"]["uri"] == "s3://b/m"
    assert plain["fetch"]["allowed_hosts"] == ["a", "b"]


def test_a_redacted_configuration_tells_how_many_ids_and_not_which() -> None:
    # the ledger keeps configurations for good: an erased image's id would stay there
    plain = redacted(parse(*REQUIRED, "--ids", '["zz-erase-me-17", "b"]'))

    assert plain["ids"] == 2
    assert "zz-erase-me-17" not in json.dumps(plain)
