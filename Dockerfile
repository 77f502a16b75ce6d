# The learners and the command `cory`, for CPUs; with `--build-arg CUDA=1` for NVIDIA's GPUs.
FROM python:3.12-slim

ARG CUDA=0
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
WORKDIR /opt/cory

COPY . .
# PyPI's own torch is CUDA's on Linux; the other index has the same release for CPUs.
RUN if [ "$CUDA" = 1 ]; then \
        pip install -c constraints.txt -c constraints-cuda.txt -e ".[agents]"; \
    else \
        pip install -c constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu -e ".[agents]"; \
    fi \
    && useradd --uid 1000 --create-home cory \
    && mkdir -p /data/runs && chown -R cory /data

USER cory
WORKDIR /data
ENTRYPOINT ["cory"]
CMD ["--help"]
