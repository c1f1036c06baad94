# An S3 server that keeps what it is given in memory: moto's, of the version that the other tests use.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}
WORKDIR /app
COPY requirements/dev.txt dev.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    grep -oE '^[a-zA-Z0-9._-]+==[^ ;]+' dev.txt | sort -u -t= -k1,1 >constraints.txt \
    && python -m venv /opt/venv && /opt/venv/bin/pip install 'moto[s3]' flask flask-cors -c constraints.txt
USER 10001:10001
CMD ["/opt/venv/bin/python", "-m", "moto.server", "--host", "0.0.0.0", "--port", "9000"]
