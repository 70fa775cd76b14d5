#!/usr/bin/env bash
# Elastic training: ranks that die are started again, and the run goes on from its last state, also with fewer machines.
#   launch/torchrun/train.sh PRESET DATA OUT [--group.field value ...]
# The same command on every machine. Give each phase a micro-batch for every rank that there may be: with the preset
# severstal, --phases.0.batch-size and --phases.1.batch-size of 8 times as many. Environment:
#   NODES         how many machines, or MIN:MAX (1)
#   PROCESSES     ranks a machine: a number, or gpu (gpu)
#   RENDEZVOUS    HOST:PORT of the first machine, open to the others (a free local port)
#   JOB           the same name on every machine (steel)
#   MAX_RESTARTS  how often the ranks may be started again (3)
#   TORCH_ELASTIC_SHUTDOWN_TIMEOUT  seconds that ranks have to save their state once they are told to stop (100)
#   PYTHON        the interpreter of the environment (.venv/bin/python)
set -euo pipefail
preset=${1:?PRESET DATA OUT} data=${2:?DATA} out=${3:?OUT}

# torchrun passes these signals on, gives the ranks as long to save their state and leave, and then kills them.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-100}
exec "${PYTHON:-.venv/bin/python}" -m torch.distributed.run \
  --nnodes="${NODES:-1}" \
  --nproc-per-node="${PROCESSES:-gpu}" \
  --rdzv-backend=c10d \
  --rdzv-endpoint="${RENDEZVOUS:-localhost:0}" \
  --rdzv-id="${JOB:-steel}" \
  --max-restarts="${MAX_RESTARTS:-3}" \
  --signals-to-handle=SIGTERM,SIGINT,SIGUSR1 \
  -m train.fit --preset "$preset" --data "$data" --out "$out" "${@:4}"
