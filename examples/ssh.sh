#!/bin/bash
# A run on several machines by SSH: bash ssh.sh FIRST SECOND …
# Each has the same environment and the images at the same path. The run's folder is the first's.
set -euo pipefail
run="mnist --out runs/mnist"
port=29500
gpus=8 # of each machine

for rank in $(seq 0 $(($# - 1))); do
    machine=${*:rank + 1:1}
    ssh -tt "$machine" accelerate launch --multi_gpu --num_machines $# --num_processes $(($# * gpus)) \
        --machine_rank "$rank" --main_process_ip "$1" --main_process_port "$port" \
        -m fastinfogan.train "$run" &
done
wait # where a machine is lost, the others end too; run this again to go on
