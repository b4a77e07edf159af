#!/usr/bin/env bash
# Makes .venv with the locked versions and this project in it, and finds a Java for Spark.
# Idempotent, and over in a moment when nothing changed. Needs bash and Python only: uv comes from
# the package index where it is not there, Java from apt-get where that may install.
#
#   PYTHON=/path/to/python3.11  the interpreter to build .venv on
#   WITHOUT_JAVA=1              for machines that only run the engine (images and models, no Spark)
# Both are remembered in .venv until one of them is given anew.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${PYTHON:-}${WITHOUT_JAVA:-}" ] && [ -r .venv/setup-choices ]; then
    # shellcheck source=/dev/null
    . .venv/setup-choices
fi

say() { echo "setup: $*" >&2; }
die() {
    say "$1"
    exit 1
}

# The versions of Python that requirements.lock has wheels for, the one it was made with first.
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
        [ -n "${candidate}" ] || continue
        if "${candidate}" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
            2>/dev/null </dev/null; then
            "${candidate}" -c 'import sys; print(sys.executable)'
            return
        fi
        # Whoever names an interpreter wants that one, not the next best.
        [ "${candidate}" != "${PYTHON:-}" ] || die "PYTHON=${PYTHON} is not Python 3.11 to 3.13"
    done
    die "no Python 3.11 to 3.13 on PATH; install one (Debian 12: apt-get install python3 python3-venv) or name it: make setup PYTHON=/path/to/python3.11"
}

find_or_install_java() {
    local as_root=()
    scripts/find_java.sh && return
    if command -v apt-get >/dev/null; then
        if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
        if [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; then
            say "no Java 17 or newer; installing openjdk-17-jre-headless"
            {
                "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q &&
                    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y \
                        --no-install-recommends openjdk-17-jre-headless
            } >&2 </dev/null || true
            scripts/find_java.sh && return
        fi
        die "Spark needs Java 17 or newer, none was found; run: sudo apt-get install -y openjdk-17-jre-headless"
    fi
    die "Spark needs Java 17 or newer, none was found; install OpenJDK 17 (Fedora, RHEL: sudo dnf install -y java-17-openjdk-headless; macOS: brew install openjdk@17) and set JAVA_HOME"
}

# uv, from PATH or from the package index: it installs this set in a third of pip's time.
find_or_install_uv() {
    if command -v uv >/dev/null && uv --version >/dev/null 2>&1; then
        command -v uv
        return
    fi
    if ! cmp -s scripts/uv.lock .uv/uv.lock; then
        say "getting uv"
        rm -rf .uv
        "$1" -m venv .uv >&2 || die "$1 cannot make virtual environments; run: sudo apt-get install -y python3-venv"
        .uv/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
            --only-binary :all: --require-hashes -r scripts/uv.lock >&2
        cp scripts/uv.lock .uv/uv.lock
    fi
    echo "${PWD}/.uv/bin/uv"
}

# Two things that Spark does at its first start or at every one are done here, once: fetching Delta's
# jar (from Maven Central, then kept in the Ivy cache), and loading some twenty thousand classes, half
# of what a short job waits for. Spark's JVMs map them from .venv/spark-classes.jsa instead, which Java
# passes over where it does not fit.
warm_spark() {
    say "getting Spark's jars, archiving its classes (two minutes, for a start in half the time)"
    rm -f .venv/spark-classes.jsa
    if ! JAVA_HOME="$(cat .venv/java_home)" PYSPARK_PYTHON="${PWD}/.venv/bin/python" \
        SPARK_LOCAL_IP=127.0.0.1 \
        SPARK_SUBMIT_OPTS="-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:ArchiveClassesAtExit=${PWD}/.venv/spark-classes.jsa" \
        env -u SPARK_HOME .venv/bin/spark-submit --properties-file conf/spark/laptop.conf \
        --conf spark.sql.codegen.wholeStage=false --conf spark.sql.codegen.factoryMode=NO_CODEGEN \
        --conf spark.sql.adaptive.enabled=false --conf spark.sql.shuffle.partitions=1 \
        --conf spark.databricks.delta.snapshotPartitions=1 \
        scripts/warm_spark.py </dev/null >.venv/warm-spark.log 2>&1; then
        grep -v '\[cds\]' .venv/warm-spark.log | tail -20 >&2
        die "Spark does not run with the settings of conf/spark/laptop.conf; whole log: .venv/warm-spark.log"
    fi
}

# All that the result depends on. The path is part of it: virtual environments do not move.
fingerprint() {
    {
        echo "${PWD} ${PYTHON:-} ${WITHOUT_JAVA:-}"
        cat requirements.lock setup.cfg pyproject.toml pipeline/__init__.py scripts/setup.sh \
            scripts/uv.lock
        cat conf/spark/laptop.conf scripts/warm_spark.py
    } | cksum
}

java_is_there() { [ -n "${WITHOUT_JAVA:-}" ] || [ -x "$(cat .venv/java_home 2>/dev/null)/bin/java" ]; }

if [ "$(cat .venv/setup-stamp 2>/dev/null)" = "$(fingerprint)" ] && java_is_there; then
    exit 0
fi

started=${SECONDS}
python=$(find_python)
if [ -z "${WITHOUT_JAVA:-}" ]; then java_home=$(find_or_install_java); fi
uv=$(find_or_install_uv "${python}")

# Downloading an interpreter or reading a machine's own uv settings would undo the lock.
export UV_PYTHON_DOWNLOADS=never UV_NO_PROGRESS=1
# One piece of torch's CUDA is 550 MB: slow lines need longer than 30 s without losing heart.
export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-300}"
# An environment that is there is kept, and repaired below, unless it is of another Python or was
# made at another place.
if ! .venv/bin/python -c "import sys; sys.exit(sys.version_info[:2] != $("${python}" -c \
    'import sys; print(sys.version_info[:2])'))" 2>/dev/null ||
    ! grep -qF "${PWD}/.venv" .venv/bin/activate; then
    say "making .venv with ${python}"
    rm -rf .venv
    "${uv}" venv --quiet --no-project --python "${python}" .venv
fi
rm -f .venv/setup-stamp
say "installing the locked versions (6.6 GB with torch's CUDA; a minute or two the first time)"
"${uv}" pip sync --quiet --compile-bytecode --python .venv/bin/python --require-hashes requirements.lock
"${uv}" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
if [ -z "${WITHOUT_JAVA:-}" ]; then
    echo "${java_home}" >.venv/java_home
    warm_spark
fi
printf 'PYTHON=%q\nWITHOUT_JAVA=%q\n' "${PYTHON:-}" "${WITHOUT_JAVA:-}" >.venv/setup-choices
fingerprint >.venv/setup-stamp
say "ready in $((SECONDS - started)) s; next: make demo, make test"
