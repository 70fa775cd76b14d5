#!/usr/bin/env bash
# Elastic training: ranks that die are started again, and the run goes on from its last state, also with fewer machines.
#   launch/torchrun/train.sh PRESET DATA OUT [--group.field value ...]
# The same command on every machine. Environment:
#   NODES         how many machines, or MIN:MAX (1)
#   PROCESSES     ranks a machine: a number, or gpu (gpu)
#   RENDEZVOUS    HOST:PORT of the first machine, open to the others (a free local port)
#   JOB           the same name on every machine (steel)
#   MAX_RESTARTS  how often the ranks may be started again (3)
#   PYTHON        the interpreter of the environment (.venv/bin/python)
set -euo pipefail
preset=${1:?PRESET DATA OUT} data=${2:?DATA} out=${3:?OUT}

# torchrun passes these signals on and then gives the ranks as long to save their state and leave.
exec "${PYTHON:-.venv/bin/python}" -m torch.distributed.run \
  --nnodes="${NODES:-1}" \
  --nproc-per-node="${PROCESSES:-gpu}" \
  --rdzv-backend=c10d \
  --rdzv-endpoint="${RENDEZVOUS:-localhost:0}" \
  --rdzv-id="${JOB:-steel}" \
  --max-restarts="${MAX_RESTARTS:-3}" \
  --signals-to-handle=SIGTERM,SIGINT,SIGUSR1 \
  -m train.fit --preset "$preset" --data "$data" --out "$out" "${@:4}"
