#!/bin/sh
# Starts the whole service with Docker: with the machine's GPUs where there are any that containers can use, else on the CPU.
set -eu
cd "$(dirname "$0")/.."

docker compose version >/dev/null 2>&1 || {
  echo "This needs Docker with Compose v2 (docker compose version); without Docker, \`make run\` starts the service." >&2
  exit 1
}
[ -e .env ] || { cp .env.example .env; echo "Copied .env.example to .env"; }

# Which compose files, once for all: docker compose finds the answer in .env, in this shell and in any other.
if [ -n "${COMPOSE_FILE:-}" ]; then
  echo "Using $COMPOSE_FILE, as COMPOSE_FILE says"
elif grep -q '^COMPOSE_FILE=' .env; then
  echo "Using $(sed -n 's/^COMPOSE_FILE=//p' .env), as .env says"
elif ! nvidia-smi -L >/dev/null 2>&1; then
  echo "No NVIDIA GPU answers here (nvidia-smi): training on the CPU, with compose.cpu.yaml (noted in .env)"
  echo "COMPOSE_FILE=compose.yaml:compose.cpu.yaml" >>.env
elif ! docker info --format '{{json .Runtimes}}' 2>/dev/null | grep -qi nvidia &&
  ! ls /etc/cdi/nvidia* /var/run/cdi/nvidia* >/dev/null 2>&1; then
  echo "There are GPUs here, but Docker cannot give them to containers. Install the NVIDIA Container Toolkit, then:" >&2
  echo "  sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker" >&2
  echo "Or train on the CPU: echo COMPOSE_FILE=compose.yaml:compose.cpu.yaml >> .env" >&2
  exit 1
else
  echo "Training on $(nvidia-smi -L | wc -l) GPU(s), with compose.yaml (noted in .env)"
  echo "COMPOSE_FILE=compose.yaml" >>.env
fi

docker compose build
docker compose up --detach --wait --wait-timeout "${WAIT_SECONDS:-300}" api scheduler worker || {
  echo "It did not come up. What is not healthy, and what it said last:" >&2
  docker compose ps --all >&2
  docker compose logs --tail 20 migrate api scheduler worker >&2
  echo "If the address is already in use, give another in .env: LOOPLINE_PUBLISH=127.0.0.1:8090" >&2
  exit 1
}
address=$(docker compose port api 8080)
cat <<TEXT

Loopline is up at http://$address; /docs shows the API. It asks for a key; the first one is made with

  docker compose exec api python -m services keys create --tenant default --name me --scopes read,submit,admin

and is shown once. Then: export LOOPLINE_URL=http://$address LOOPLINE_API_KEY=ll_...
\`docker compose logs -f\` follows the logs, \`make down\` stops everything and keeps all data.
TEXT
