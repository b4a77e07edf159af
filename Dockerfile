# Driver and executors on Kubernetes: the locked environment, Java, Delta's jar, NVIDIA's libraries
# (in torch's wheels; the node brings the driver).
#
#   docker build -t REGISTRY/mumic-spark:VERSION .
#
# Never built or run by us: we had no container runtime. Each step was checked only as far as that
# goes: the set-up and the build run on Debian 12 without Docker.

# Only its entrypoint.sh is used: how Kubernetes' arguments become a driver or an executor. The
# environment's own pyspark holds the same jars.
FROM apache/spark:4.2.0-scala2.13-java17-ubuntu AS spark

FROM python:3.11-slim-bookworm

# tini and libnss-wrapper are what entrypoint.sh calls; procps is what Spark's scripts call.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        libnss-wrapper make openjdk-17-jre-headless procps tini \
    && rm -rf /var/lib/apt/lists/*

# The path that conf/spark/*.conf name.
WORKDIR /opt/mumic

# The set-up runs the project once, to archive the classes that Spark loads for it.
COPY Makefile README.md LICENSE setup.cfg pyproject.toml requirements.lock ./
COPY scripts scripts
COPY conf conf
COPY pipeline pipeline
COPY udfs udfs
COPY jobs jobs
ENV UV_NO_CACHE=1
RUN make setup && rm -rf .uv

# Delta's jars, where every pod finds them without a network. Spark has Hadoop and the loggers
# already, in versions of its own.
ENV SPARK_HOME=/opt/mumic/.venv/lib/python3.11/site-packages/pyspark
RUN cd /root/.ivy2.5.2/jars \
    && cp io.delta_*.jar io.unitycatalog_*.jar "${SPARK_HOME}/jars/" \
    && rm -rf /root/.ivy2.5.2

COPY --from=spark /opt/entrypoint.sh /opt/entrypoint.sh
ENV JAVA_HOME=/usr/lib/jvm/java-17-openjdk-amd64 \
    PATH=/opt/mumic/.venv/bin:$PATH \
    PYSPARK_PYTHON=/opt/mumic/.venv/bin/python \
    PYSPARK_DRIVER_PYTHON=/opt/mumic/.venv/bin/python

# No image or URL gets a root shell; 185 is the user that Spark's own images run as.
RUN mkdir -p /opt/spark/work-dir && chown 185:0 /opt/spark/work-dir
USER 185
WORKDIR /opt/spark/work-dir
ENTRYPOINT ["/opt/entrypoint.sh"]
